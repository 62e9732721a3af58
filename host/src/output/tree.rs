//! Draws a tree from its lines in order, each with its depth.
//!
//! Runs in the application's process. Never looks at what the lines say.

/// The strokes in front of each line, for lines that stand `depths` below a root (1 is right below it).
pub(crate) fn strokes(depths: &[usize]) -> Vec<String> {
    let is_last = |index: usize, depth: usize| {
        let after = depths.get(index + 1..).unwrap_or_default();
        after.iter().find(|other| **other <= depth).is_none_or(|other| *other < depth)
    };
    // Whether more lines follow at each depth above the present one.
    let mut open: Vec<bool> = Vec::new();
    let mut lines = Vec::with_capacity(depths.len());
    for (index, depth) in depths.iter().enumerate() {
        let above = depth.saturating_sub(1);
        open.resize(above, false);
        let mut line: String = open.iter().map(|more| if *more { "│  " } else { "   " }).collect();
        let last = is_last(index, *depth);
        line.push_str(if last { "└─ " } else { "├─ " });
        open.push(!last);
        lines.push(line);
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_joined_to_the_next_one_of_its_depth() {
        let drawn = strokes(&[1, 2, 3, 2, 1, 2]);
        assert_eq!(drawn, ["├─ ", "│  ├─ ", "│  │  └─ ", "│  └─ ", "└─ ", "   └─ "]);
        assert!(strokes(&[]).is_empty());
    }
}
