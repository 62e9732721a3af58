//! Prints what can be enforced on this machine.

fn main() -> Result<(), sandbox_core::PluginSandboxError> {
    let diagnosis = sandbox_core::doctor()?;
    print!("{}", diagnosis.report);
    Ok(())
}
