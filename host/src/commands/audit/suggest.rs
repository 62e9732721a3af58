//! Suggested grants, as they are pasted: behind `plugin-host run`, and into a host's source.
//!
//! Runs in the application's process. Owns how a grant is spelled. What to grant, `sandbox_core::GrantSuggester` says.
//!
//! Keys of each JSON object: `plugin`, `grants` (as `name:scope`), `options` (words for `plugin-host run`), `rust` (lines for a
//! `PluginPolicy`), `not_suggested`: `permission`, `action`, `object`, `why`, `count`; `unknown`, `left_out`.

use sandbox_core::{GrantSuggestion, PluginPermission, STANDARD_PERMISSIONS, Scope};
use serde_json::{Value, json};

use crate::cli;
use crate::output::escape;
use crate::output::human::Look;

pub(super) fn object(suggestion: &GrantSuggestion) -> Value {
    let grants: Vec<_> = suggestion.permissions.iter().map(ToString::to_string).collect();
    let rust: Vec<_> = suggestion.permissions.iter().map(rust).collect();
    let not_suggested: Vec<_> = suggestion
        .not_suggested
        .iter()
        .map(|not| {
            json!({
                "permission": not.permission, "action": not.action, "object": not.object, "why": not.why,
                "count": not.count,
            })
        })
        .collect();
    json!({
        "plugin": suggestion.plugin, "grants": grants, "options": options(suggestion), "rust": rust,
        "not_suggested": not_suggested, "unknown": suggestion.unknown, "left_out": suggestion.left_out,
    })
}

pub(in crate::commands) fn text(look: Look, suggestions: &[GrantSuggestion], missing: u64) -> String {
    let mut text: Vec<_> = suggestions.iter().map(|suggestion| one(look, suggestion)).collect();
    if suggestions.is_empty() {
        text.push("nothing was tried that needs a grant\n".to_owned());
    }
    if missing > 0 {
        let note = format!("{missing} events are missing in the log: it may be more that was needed\n");
        text.push(look.doubtful(&note));
    }
    text.join("\n")
}

fn one(look: Look, suggestion: &GrantSuggestion) -> String {
    let plugin = look.bold(&escape::line(&suggestion.plugin));
    let left = suggestion.not_suggested.iter().fold(0_u64, |left, not| left.saturating_add(not.count));
    let mut text = if suggestion.permissions.is_empty() && left > 0 {
        format!("nothing can be suggested for {plugin}; {left} attempts remain, see below\n")
    } else if suggestion.permissions.is_empty() {
        format!("{plugin} needs no grant\n")
    } else {
        // Quoting fails for a NUL only, which no scope has.
        let options = shlex::try_join(options(suggestion).iter().map(String::as_str)).unwrap_or_default();
        let rust: Vec<_> = suggestion
            .permissions
            .iter()
            .map(|permission| format!("    {}\n", escape::line(&rust(permission))))
            .collect();
        format!("{plugin}\n  {}\n\n  in Rust\n{}", escape::line(&options), rust.concat())
    };
    if !suggestion.not_suggested.is_empty() {
        text.push_str("\n  not suggested\n");
        for not in &suggestion.not_suggested {
            let times = if not.count == 1 { String::new() } else { format!(" ({} times)", not.count) };
            let what = format!("{} {} {}", not.permission, not.action, not.object);
            text.push_str(&format!(
                "    {}{times}: {}\n",
                escape::line(what.trim_end()),
                escape::line(&not.why)
            ));
        }
    }
    for (count, note) in [
        (suggestion.unknown, "attempts are in the log as a number only: it may be more that was needed"),
        (suggestion.left_out, "attempts were left out: there are too many different objects"),
    ] {
        if count > 0 {
            text.push_str(&format!("  {}\n", look.doubtful(&format!("{count} {note}"))));
        }
    }
    text
}

/// The options of `plugin-host run`. Permissions of a host's own are none of this host's.
fn options(suggestion: &GrantSuggestion) -> Vec<String> {
    let texts = suggestion.permissions.iter().map(ToString::to_string);
    texts.filter(|text| cli::permission(text).is_ok()).flat_map(|text| ["--grant".to_owned(), text]).collect()
}

/// The line for a `PluginPolicy`.
fn rust(permission: &PluginPermission) -> String {
    let name = permission.name();
    let known = STANDARD_PERMISSIONS.iter().any(|standard| standard.name() == name);
    let unscoped = if known {
        format!("PERMISSION_{}", name.to_uppercase().replace('-', "_"))
    } else {
        format!("PluginPermission::new({name:?}, \"\")?")
    };
    match permission.scope() {
        None => format!(".permission({unscoped})"),
        Some(Scope::Path(path)) => {
            format!(".permission({unscoped}.scoped_to_path({:?})?)", path.display().to_string())
        }
        Some(scope) => format!(".permission({unscoped}.scoped({:?})?)", scope.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_grant_is_spelled_as_it_is_pasted() {
        for (permission, line) in [
            ("file-read:/a \"b\"", ".permission(PERMISSION_FILE_READ.scoped_to_path(\"/a \\\"b\\\"\")?)"),
            ("network:[::1]:80", ".permission(PERMISSION_NETWORK.scoped(\"[::1]:80\")?)"),
            ("ui", ".permission(PERMISSION_UI)"),
            ("payments", ".permission(PluginPermission::new(\"payments\", \"\")?)"),
        ] {
            let permission: PluginPermission = permission.parse().expect("a permission");
            assert_eq!(rust(&permission), line);
        }
    }
}
