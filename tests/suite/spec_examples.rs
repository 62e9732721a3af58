//! The specification's seven usage examples, as an embedder would write them, with the real plugin `hello`.

use rig::library;
use sandbox_core::{
    PERMISSION_FILE_READ, PERMISSION_NETWORK, PERMISSION_UI, PluginPolicy, PluginSandboxError,
    PluginSandboxManager, PluginState, ResourceLimits,
};

fn with_hello() -> Result<PluginSandboxManager, PluginSandboxError> {
    let manager = PluginSandboxManager::new();
    manager.register_plugin("hello", PluginPolicy::new().permission(PERMISSION_FILE_READ))?;
    Ok(manager)
}

#[test]
fn example_1_a_manager_is_made_and_holds_no_plugin() {
    let manager = PluginSandboxManager::new();
    assert!(manager.plugin_ids().is_empty());
}

#[test]
fn example_2_a_plugin_is_registered_with_permissions_limits_and_modules() -> Result<(), PluginSandboxError> {
    let manager = PluginSandboxManager::new();
    let policy = PluginPolicy::new()
        .permissions([PERMISSION_FILE_READ, PERMISSION_UI])
        .limits(ResourceLimits::default().max_memory_mb(200).max_cpu_time_sec(20))
        .allow_modules(["libm.so.6", "libz.so.1"]);
    manager.register_plugin("my-plugin", policy)?;

    let sandbox = manager.create_sandbox("my-plugin")?;
    assert_eq!(sandbox.plugin_id().as_str(), "my-plugin");
    assert!(sandbox.has_permission(&PERMISSION_FILE_READ) && sandbox.has_permission(&PERMISSION_UI));
    assert!(!sandbox.has_permission(&PERMISSION_NETWORK));
    assert_eq!(sandbox.resource_limits().max_memory_mb, Some(200));
    assert_eq!(sandbox.resource_limits().max_file_handles, Some(10), "what is not set keeps its default");
    let mut modules = sandbox.allowed_modules();
    modules.sort();
    assert_eq!(modules, ["libm.so.6", "libz.so.1"]);
    assert_eq!(sandbox.state(), PluginState::Registered);
    Ok(())
}

#[test]
fn example_3_a_plugin_is_loaded_and_activated() -> Result<(), PluginSandboxError> {
    let manager = with_hello()?;
    let plugin = manager.load_plugin("hello", library("hello"))?;
    assert_eq!(plugin.metadata().id, "hello");
    assert_eq!(plugin.metadata().description, "greets whoever calls");
    manager.activate_plugin("hello", ())?;
    assert_eq!(manager.call("hello", "greet", b"world")?, b"hello, world");
    assert_eq!(plugin.call("greet", b"handle")?, b"hello, handle");
    Ok(())
}

#[test]
fn example_4_a_plugin_is_deactivated_and_unloaded() -> Result<(), PluginSandboxError> {
    let manager = with_hello()?;
    manager.load_plugin("hello", library("hello"))?;
    manager.activate_plugin("hello", ())?;
    manager.deactivate_plugin("hello")?;
    assert_eq!(manager.create_sandbox("hello")?.state(), PluginState::Loaded);
    manager.unload_plugin("hello")?;
    assert_eq!(manager.create_sandbox("hello")?.state(), PluginState::Unloaded);
    // Specification: what is not loaded cannot be activated.
    let error = manager.activate_plugin("hello", ()).expect_err("it is not loaded");
    assert!(matches!(error, PluginSandboxError::WrongState { .. }), "{error}");
    Ok(())
}

#[test]
fn example_5_permissions_are_managed() -> Result<(), PluginSandboxError> {
    let manager = with_hello()?;
    assert_eq!(manager.get_plugin_permissions("hello")?, [PERMISSION_FILE_READ]);
    assert!(manager.grant_permission("hello", PERMISSION_NETWORK)?);
    assert!(manager.grant_permission("hello", PERMISSION_NETWORK)?, "granting what is held succeeds again");
    assert_eq!(manager.get_plugin_permissions("hello")?.len(), 2);

    let sandbox = manager.create_sandbox("hello")?;
    sandbox.check_permission(&PERMISSION_NETWORK).expect("it is held");
    assert!(manager.revoke_permission("hello", &PERMISSION_NETWORK)?);
    assert!(!manager.revoke_permission("hello", &PERMISSION_NETWORK)?, "it is not held any more");
    let denied = sandbox.check_permission(&PERMISSION_NETWORK).expect_err("it is not held");
    assert_eq!((denied.plugin.as_str(), denied.permission.name()), ("hello", "network"));
    Ok(())
}

#[test]
fn example_6_limits_are_managed() -> Result<(), PluginSandboxError> {
    let manager = with_hello()?;
    assert_eq!(manager.get_resource_limits("hello")?, ResourceLimits::default());
    let limits = ResourceLimits::default().max_memory_mb(50).max_file_handles(5).max_network_connections(2);
    manager.set_resource_limits("hello", limits.clone())?;
    assert_eq!(manager.get_resource_limits("hello")?, limits);
    let error =
        manager.set_resource_limits("hello", limits.max_memory_mb(1)).expect_err("too little to run in");
    assert!(matches!(error, PluginSandboxError::Limit(_)), "{error}");
    assert_eq!(
        manager.get_resource_limits("hello")?.max_memory_mb,
        Some(50),
        "a refused change changes nothing"
    );
    Ok(())
}

#[test]
fn example_7_modules_are_managed() -> Result<(), PluginSandboxError> {
    let manager = with_hello()?;
    assert!(manager.get_allowed_modules("hello")?.is_empty());
    assert!(manager.add_allowed_module("hello", "libz.so.1")?);
    assert!(!manager.add_allowed_module("hello", "libz.so.1")?, "it was there already");
    assert_eq!(manager.get_allowed_modules("hello")?, ["libz.so.1"]);
    assert!(manager.remove_allowed_module("hello", "libz.so.1")?);
    assert!(!manager.remove_allowed_module("hello", "libz.so.1")?, "it is not there any more");
    Ok(())
}

#[test]
fn the_smallest_host_is_one_line_and_a_call() -> Result<(), PluginSandboxError> {
    let plugin = sandbox_core::run(library("hello"))?;
    assert_eq!(plugin.call("greet", b"world")?, b"hello, world");
    Ok(())
}
