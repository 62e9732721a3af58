//! `plugin-host doctor`: what this kernel and this user can enforce, tried on a helper that loads nothing.
//!
//! Runs in the application's process. Owns what counts as healthy: every layer that a load insists on unless told
//! otherwise. Never goes by a kernel's version.
//!
//! Keys of its JSON object: `kernel`, `user`, `healthy`, `layers` as in a report with `matters` added, and `facts`:
//! `name`, `value`, `note`.

use std::io;
use std::process::ExitCode;

use comfy_table::Cell;
use sandbox_core::{Demand, Diagnosis, Layer, LayerPolicy};
use serde_json::{Value, json};

use crate::cli::DoctorArgs;
use crate::failure::{Exit, Failure};
use crate::output::human::Look;
use crate::output::{escape, human, json};

/// Tries, and shows.
pub(crate) fn execute(args: &DoctorArgs) -> ExitCode {
    let diagnosis = match sandbox_core::doctor() {
        Ok(diagnosis) => diagnosis,
        Err(error) => {
            let failure = Failure { exit: Exit::Sandbox, ..Failure::from(error) };
            if args.json {
                json::print_failure(Some("doctor"), &failure);
            } else {
                human::print_failure(&failure);
            }
            return failure.exit_code();
        }
    };
    let healthy = is_healthy(&diagnosis, args.strict);
    let printed = if args.json {
        json::print("doctor", object(&diagnosis, healthy), None)
    } else {
        human::result(text(Look::of(&io::stdout()), &diagnosis).as_bytes())
    };
    match printed {
        Err(failure) if failure.exit != Exit::NobodyReads => {
            human::print_failure(&failure);
            failure.exit_code()
        }
        _ if healthy => ExitCode::SUCCESS,
        _ => ExitCode::from(Exit::Plugin as u8),
    }
}

/// What a load would ask: the diagnosis itself asks for nothing, so as to see everything.
fn demand(layer: Layer) -> Demand {
    LayerPolicy::strict().demand(layer)
}

fn is_healthy(diagnosis: &Diagnosis, strict: bool) -> bool {
    diagnosis.report.missing().all(|missing| !strict && demand(missing.layer) != Demand::Required)
}

/// Every layer with why it matters.
pub(crate) fn layers(diagnosis: &Diagnosis) -> Vec<Value> {
    diagnosis
        .report
        .layers
        .iter()
        .map(|row| {
            let mut value = json::layer(row, demand(row.layer));
            if let Value::Object(keys) = &mut value {
                keys.insert("matters".to_owned(), row.layer.matters_because().into());
            }
            value
        })
        .collect()
}

fn object(diagnosis: &Diagnosis, healthy: bool) -> Value {
    let layers = layers(diagnosis);
    let facts: Vec<_> = diagnosis
        .facts
        .iter()
        .map(|fact| json!({ "name": fact.name, "value": fact.value, "note": fact.note }))
        .collect();
    json!({
        "kernel": diagnosis.kernel, "user": diagnosis.user, "healthy": healthy, "layers": layers, "facts": facts,
    })
}

fn text(look: Look, diagnosis: &Diagnosis) -> String {
    let title = format!("Linux {}, as {}", escape::line(&diagnosis.kernel), escape::line(&diagnosis.user));
    let layers = human::layers(look, &diagnosis.report, |row| demand(row.layer));
    let mut text = format!("{}\n\n{layers}\n", look.bold(&title));
    if !diagnosis.facts.is_empty() {
        let mut facts = look.table(&["fact", "value", "note"]);
        for fact in &diagnosis.facts {
            let note = escape::line(fact.note.as_deref().unwrap_or_default());
            facts.add_row([Cell::new(fact.name), Cell::new(escape::line(&fact.value)), Cell::new(note)]);
        }
        text.push_str(&format!("\n{}\n", human::rendered(facts, 1)));
    }
    text.push('\n');
    text.push_str(&verdict(look, diagnosis));
    text
}

fn verdict(look: Look, diagnosis: &Diagnosis) -> String {
    let missing: Vec<_> = diagnosis.report.missing().map(|row| row.layer).collect();
    if missing.is_empty() {
        return "everything stands: plugins run fully confined here\n".to_owned();
    }
    let mut text = String::new();
    for layer in &missing {
        let name = layer.name();
        let name = if demand(*layer) == Demand::Required { look.bad(name) } else { look.doubtful(name) };
        text.push_str(&format!("{name} is missing: {}\n", layer.matters_because()));
    }
    let required: Vec<_> = missing
        .iter()
        .filter(|layer| demand(**layer) == Demand::Required)
        .map(|layer| layer.name())
        .collect();
    if required.is_empty() {
        text.push_str("\neverything that a load requires stands\n");
    } else if required.contains(&Layer::Seccomp.name()) {
        text.push_str("\nplugins do not load here: their libraries reach them through the broker, which cannot be had\n");
    } else {
        let options: Vec<_> = required.iter().map(|name| format!("--best-effort {name}")).collect();
        text.push_str(&format!(
            "\nplugins do not load here, unless the host accepts less: plugin-host run {} ...\n",
            options.join(" ")
        ));
    }
    text
}
