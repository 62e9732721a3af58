//! What a revoke takes back of what a plugin already has, by the grade of the grant.
//!
//! Runs as a host application with the `probe` plugin.

use sandbox_core::{
    Grade, PERMISSION_FILE_READ, PERMISSION_FILE_WRITE, PERMISSION_NETWORK, PERMISSION_PROCESS,
    PermissionError, PluginPolicy, PluginSandbox, PluginSandboxError, PluginSandboxManager,
};

#[test]
fn a_grade_that_a_permission_does_not_have_is_an_error() {
    let impossible = [
        (PERMISSION_FILE_READ, Grade::Relay),
        (PERMISSION_NETWORK, Grade::Mediated),
        (PERMISSION_PROCESS, Grade::Mediated),
    ];
    let manager = PluginSandboxManager::new();
    manager.register_plugin("probe", PluginPolicy::new()).expect("it is registered");
    for (permission, grade) in impossible {
        let refused = |error: PluginSandboxError| {
            let known = matches!(&error, PluginSandboxError::Permission(PermissionError::Grade { .. }));
            assert!(known, "{permission} as {grade}: {error}");
        };
        let policy = PluginPolicy::new().permission_as(permission.clone(), grade);
        refused(PluginSandbox::new("probe", policy.clone()).expect_err("no sandbox"));
        refused(manager.register_plugin("other", policy).expect_err("not registered"));
        refused(manager.grant_permission_as("probe", permission.clone(), grade).expect_err("not granted"));
    }
    assert!(manager.get_plugin_permissions("probe").expect("it is registered").is_empty());
    assert!(manager.grant_permission_as("probe", PERMISSION_NETWORK, Grade::Relay).expect("granted"));
    assert!(manager.grant_permission_as("probe", PERMISSION_FILE_WRITE, Grade::Descriptor).expect("granted"));
    let held = manager.get_plugin_permissions("probe").expect("it is registered");
    assert_eq!(
        held,
        [PERMISSION_NETWORK, PERMISSION_FILE_WRITE],
        "a permission is the same whatever its grade"
    );
}
