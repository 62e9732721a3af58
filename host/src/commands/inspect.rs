//! `plugin-host inspect`: what a plugin says of itself, what it needs, and how to run it.
//!
//! Runs in the application's process. Owns the suggestion of a command line.
//! Never loads the library and never runs a line of it: everything is read out of the file.
//!
//! Keys of its JSON object: `path`, `size_bytes`, `metadata` as in `run`, `abi` (`matches`, `difference`), `modules`
//! (`soname`, `path`, `allowed`, `base`, `depth`, `needed_by`, `problem`), `loadable`, `run_with` (a list of arguments).

use std::io;
use std::path::Path;
use std::process::ExitCode;

use sandbox_core::{ExplainedModule, Inspection, LibraryError, PluginMetadata};
use serde_json::{Value, json};

use crate::cli::{self, InspectArgs};
use crate::failure::{Exit, Failure};
use crate::output::human::Look;
use crate::output::{escape, human, json, tree};

/// Reads, and shows.
pub(crate) fn execute(args: &InspectArgs) -> ExitCode {
    let inspection = match sandbox_core::inspect_with(&args.path, &args.allowed_modules) {
        Ok(inspection) => inspection,
        Err(error) => return fail(args, &error.into()),
    };
    let loadable = is_loadable(&inspection);
    let printed = if args.json {
        json::print("inspect", object(args, &inspection), None)
    } else {
        human::result(text(Look::of(&io::stdout()), args, &inspection).as_bytes())
    };
    match printed {
        Err(failure) if failure.exit != Exit::NobodyReads => fail(args, &failure),
        _ if loadable => ExitCode::SUCCESS,
        _ => ExitCode::from(Exit::Usage as u8),
    }
}

fn fail(args: &InspectArgs, failure: &Failure) -> ExitCode {
    if args.json {
        json::print_failure(Some("inspect"), failure);
    } else {
        human::print_failure(failure);
    }
    failure.exit_code()
}

/// Whether the suggested command would load it: a module that is merely not allowed is allowed there.
fn is_loadable(inspection: &Inspection) -> bool {
    inspection.metadata.is_some()
        && inspection.abi_difference.is_none()
        && inspection.modules.iter().all(|module| module.problem.is_none() || is_only_refused(module))
}

fn is_only_refused(module: &ExplainedModule) -> bool {
    module.path.is_some() && matches!(module.problem, Some(LibraryError::ModuleNotAllowed { .. }))
}

/// The command that runs the plugin with what it asks for, as its arguments.
fn command(args: &InspectArgs, inspection: &Inspection) -> Vec<String> {
    let mut command = vec!["plugin-host".to_owned(), "run".to_owned(), args.path.display().to_string()];
    for permission in inspection.metadata.iter().flat_map(|metadata| &metadata.permissions) {
        if cli::permission(permission).is_ok() {
            command.extend(["--grant".to_owned(), permission.clone()]);
        }
    }
    let allowed = inspection.modules.iter().filter(|module| !module.base).map(|module| &module.soname);
    for soname in allowed {
        command.extend(["--allow-module".to_owned(), soname.clone()]);
    }
    command
}

fn object(args: &InspectArgs, inspection: &Inspection) -> Value {
    let modules: Vec<_> = inspection
        .modules
        .iter()
        .map(|module| {
            json!({
                "soname": module.soname,
                "path": module.path.as_ref().map(|path| path.display().to_string()),
                "allowed": module.allowed,
                "base": module.base,
                "depth": module.depth,
                "needed_by": module.needed_by,
                "problem": module.problem.as_ref().map(ToString::to_string),
            })
        })
        .collect();
    json!({
        "path": inspection.path.display().to_string(),
        "size_bytes": inspection.size_bytes,
        "metadata": inspection.metadata.as_ref().map(json::metadata),
        "abi": {
            "matches": inspection.metadata.is_some() && inspection.abi_difference.is_none(),
            "difference": inspection.abi_difference,
        },
        "modules": modules,
        "loadable": is_loadable(inspection),
        "run_with": command(args, inspection),
    })
}

fn text(look: Look, args: &InspectArgs, inspection: &Inspection) -> String {
    let path = escape::line(&inspection.path.display().to_string());
    let mut text = format!("{}  {}\n\n", look.bold(&path), human::size(inspection.size_bytes));
    match &inspection.metadata {
        Some(metadata) => about(&mut text, look, metadata, inspection.abi_difference.as_deref()),
        None => text.push_str(&format!("{}\n", look.bad("says nothing of being a plugin"))),
    }
    modules(&mut text, look, &inspection.path, &inspection.modules);
    if is_loadable(inspection) {
        let command = command(args, inspection);
        // A NUL cannot be in an argument, and cannot get here: paths and names have none.
        let line = shlex::try_join(command.iter().map(String::as_str)).unwrap_or_default();
        text.push_str(&format!("\n{}\n  {}\n", look.bold("run it with"), escape::line(&line)));
    } else {
        text.push_str(&format!("\n{}\n", look.bad("it would not load")));
    }
    text
}

fn about(text: &mut String, look: Look, metadata: &PluginMetadata, difference: Option<&str>) {
    let abi = match difference {
        None => format!("matches this host ({})", escape::line(&metadata.abi.binding)),
        Some(difference) => format!(
            "{}\n               {}",
            look.bad("differs"),
            escape::block(difference, "               ")
        ),
    };
    for (name, value) in [
        ("id", escape::line(&metadata.id)),
        ("version", escape::line(&metadata.version)),
        ("description", escape::block(&metadata.description, "               ")),
        ("interface", abi),
    ] {
        text.push_str(&format!("  {}{value}\n", look.dim(&format!("{name:<13}"))));
    }
    if metadata.permissions.is_empty() {
        text.push_str(&format!("  {}nothing\n", look.dim("asks for     ")));
    }
    for (index, wanted) in metadata.permissions.iter().enumerate() {
        let name = if index == 0 { "asks for" } else { "" };
        let meaning = match cli::permission(wanted) {
            Ok(permission) => permission.description().to_owned(),
            Err(_) => "not a permission of this host".to_owned(),
        };
        text.push_str(&format!(
            "  {}{} {}\n",
            look.dim(&format!("{name:<13}")),
            escape::line(wanted),
            look.dim(&format!("({meaning})"))
        ));
    }
}

fn modules(text: &mut String, look: Look, path: &Path, modules: &[ExplainedModule]) {
    let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy();
    text.push_str(&format!("\n{}\n  {}\n", look.bold("needs"), escape::line(&name)));
    let depths: Vec<_> = modules.iter().map(|module| module.depth).collect();
    let width =
        modules.iter().map(|module| module.soname.chars().count() + 3 * module.depth).max().unwrap_or(0);
    for (module, stroke) in modules.iter().zip(tree::strokes(&depths)) {
        let soname = escape::line(&module.soname);
        let pad = width.saturating_sub(soname.chars().count() + stroke.chars().count());
        let state = match (&module.problem, module.base) {
            (Some(_), _) if is_only_refused(module) => look.doubtful("not allowed"),
            (Some(LibraryError::ModuleNotFound { .. }), _) => look.bad("not found"),
            (Some(problem), _) => look.bad(&escape::line(&problem.to_string())),
            (None, true) => look.dim("base"),
            (None, false) => "allowed".to_owned(),
        };
        let found =
            module.path.as_ref().map(|path| escape::line(&path.display().to_string())).unwrap_or_default();
        text.push_str(&format!(
            "  {}{soname}{}  {state}  {}\n",
            look.dim(&stroke),
            " ".repeat(pad),
            look.dim(&found)
        ));
    }
}
