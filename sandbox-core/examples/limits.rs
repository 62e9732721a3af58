//! A host with a permission, limits and a deadline for each call.

use sandbox_core::{PERMISSION_FILE_READ, PluginPolicy, PluginSandbox, ResourceLimits};
use std::time::Duration;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let policy = PluginPolicy::new()
        .permission(PERMISSION_FILE_READ.scoped_to_path("/srv/photos")?)
        .limits(ResourceLimits::default().max_memory_mb(64).call_timeout(Duration::from_secs(2)));
    let sandbox = PluginSandbox::new("hello", policy)?;
    let plugin = sandbox.load_plugin(std::env::args().nth(1).ok_or("name a plugin")?)?;
    sandbox.activate_plugin(())?;
    println!("{}", String::from_utf8_lossy(&plugin.call("greet", b"world")?));
    sandbox.unload_plugin()?;
    Ok(())
}
