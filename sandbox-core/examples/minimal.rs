//! The smallest host: loads the plugin that is named as its argument, calls it, and prints what it says.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let plugin = sandbox_core::run(std::env::args().nth(1).ok_or("name a plugin")?)?;
    println!("{}", String::from_utf8_lossy(&plugin.call("greet", b"world")?));
    Ok(())
}
