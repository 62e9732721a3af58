//! How near one name is to another, so that an error can name what was meant.
//!
//! Runs in any process. Owns nothing.

/// How many letters to change to make one text the other (Levenshtein); long texts are far from everything.
pub(crate) fn distance(a: &str, b: &str) -> usize {
    if a.len() > 64 || b.len() > 64 {
        return usize::MAX;
    }
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        for (cell, y) in row.iter_mut().skip(1).zip(&b) {
            let change = diagonal + usize::from(x != *y);
            diagonal = *cell;
            left = change.min(*cell + 1).min(left + 1);
            *cell = left;
        }
        if let Some(first) = row.first_mut() {
            *first = i + 1;
        }
    }
    row.last().copied().unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_distance_is_how_many_letters_to_change() {
        assert_eq!(distance("thumbs", "thumbs"), 0);
        assert_eq!(distance("thumb", "thumbs"), 1);
        assert_eq!(distance("tumbs", "thumbs"), 1);
        assert_eq!(distance("kitten", "sitting"), 3);
        assert_eq!(distance(&"a".repeat(65), "a"), usize::MAX);
    }
}
