//! A helper program of its own, for hosts whose own image is heavy with libraries: `with_helper_program` names it.

fn main() {
    sandbox_core::become_helper_if_asked();
    eprintln!("plugin-sandbox-helper is started by sandbox-core, and does nothing by itself");
    std::process::exit(2);
}
