//! The states of a plugin and the moves between them, as one table.
//!
//! Runs in the host. Pure: it says which move is right; `host::entry` holds the state and makes it.

use std::fmt;

/// Where a plugin stands.
///
/// `Registered -> Loaded -> Active -> Loaded -> Unloaded`, with a state for each way between; from any with a living
/// helper also to `Crashed`. From `Unloaded` and `Crashed` it may be loaded again, into a new helper: by the host, or, where
/// its [`RestartPolicy`](crate::RestartPolicy) says so, by itself, by way of `Restarting`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum PluginState {
    /// Known, never loaded.
    Registered,
    /// A helper is being confined and loads the library.
    Loading,
    /// Loaded into its helper; to be activated.
    Loaded,
    /// In `activate`.
    Activating,
    /// Activated; to be called.
    Active,
    /// In `deactivate`.
    Deactivating,
    /// Its helper has ended as asked.
    Unloaded,
    /// Its helper has ended by itself, or was ended for a cause.
    Crashed,
    /// The same, and it is loaded again as soon as its back-off is over. An unload keeps it from that.
    Restarting,
    /// Its library has crashed too often, and is not loaded until that is cleared.
    Quarantined,
}

/// What a host may ask of a plugin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Operation {
    /// `load_plugin`.
    Load,
    /// `activate_plugin`.
    Activate,
    /// `call`.
    Call,
    /// `deactivate_plugin`.
    Deactivate,
    /// `unload_plugin`.
    Unload,
    /// `check_health`.
    Check,
}

impl fmt::Display for PluginState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Registered => "registered",
            Self::Loading => "loading",
            Self::Loaded => "loaded",
            Self::Activating => "activating",
            Self::Active => "active",
            Self::Deactivating => "deactivating",
            Self::Unloaded => "unloaded",
            Self::Crashed => "crashed",
            Self::Restarting => "restarting",
            Self::Quarantined => "quarantined",
        })
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Load => "load",
            Self::Activate => "activate",
            Self::Call => "call",
            Self::Deactivate => "deactivate",
            Self::Unload => "unload",
            Self::Check => "check",
        })
    }
}

/// How an operation came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    Succeeded,
    /// The plugin said no; its helper lives.
    Refused,
}

/// The states from which an operation may begin, in words.
pub(crate) fn allowed_from(operation: Operation) -> &'static str {
    match operation {
        Operation::Load => "registered, unloaded, crashed, restarting or quarantined",
        Operation::Activate => "loaded",
        Operation::Call | Operation::Deactivate => "active",
        Operation::Unload => "loaded, active or restarting",
        Operation::Check => "loaded or active",
    }
}

/// The state in which `operation` is under way, if it may begin in `state`.
pub(crate) fn begin(state: PluginState, operation: Operation) -> Option<PluginState> {
    use PluginState::{
        Activating, Active, Crashed, Deactivating, Loaded, Loading, Quarantined, Registered, Restarting,
        Unloaded,
    };
    match (operation, state) {
        (Operation::Load, Registered | Unloaded | Crashed | Restarting | Quarantined) => Some(Loading),
        (Operation::Activate, Loaded) => Some(Activating),
        (Operation::Call, Active) => Some(Active),
        (Operation::Deactivate, Active) => Some(Deactivating),
        (Operation::Check, Loaded | Active) => Some(state),
        // During another operation too: that one then ends.
        (Operation::Unload, Loading | Loaded | Activating | Active | Deactivating | Restarting) => {
            Some(Unloaded)
        }
        _ => None,
    }
}

/// The state after `operation`, which was under way and has one of its own.
pub(crate) fn finish(operation: Operation, outcome: Outcome) -> PluginState {
    match (operation, outcome) {
        (Operation::Load, Outcome::Succeeded) => PluginState::Loaded,
        (Operation::Load, Outcome::Refused) => PluginState::Unloaded,
        (Operation::Activate, Outcome::Succeeded) | (Operation::Call | Operation::Check, _) => {
            PluginState::Active
        }
        // A plugin whose `deactivate` failed is not active any more: it may be activated again, or unloaded.
        (Operation::Activate, Outcome::Refused) | (Operation::Deactivate, _) => PluginState::Loaded,
        (Operation::Unload, _) => PluginState::Unloaded,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [PluginState; 10] = [
        PluginState::Registered,
        PluginState::Loading,
        PluginState::Loaded,
        PluginState::Activating,
        PluginState::Active,
        PluginState::Deactivating,
        PluginState::Unloaded,
        PluginState::Crashed,
        PluginState::Restarting,
        PluginState::Quarantined,
    ];

    #[test]
    fn the_specified_life_is_a_path_through_the_table() {
        let mut state = PluginState::Registered;
        for operation in
            [Operation::Load, Operation::Activate, Operation::Call, Operation::Deactivate, Operation::Unload]
        {
            begin(state, operation).unwrap_or_else(|| panic!("{operation} from {state}"));
            state = finish(operation, Outcome::Succeeded);
        }
        assert_eq!(state, PluginState::Unloaded);
        assert!(begin(state, Operation::Load).is_some(), "and round again");
    }

    #[test]
    fn an_operation_begins_only_from_the_states_that_its_error_names() {
        for operation in
            [Operation::Load, Operation::Activate, Operation::Call, Operation::Deactivate, Operation::Check]
        {
            for state in ALL {
                let named = allowed_from(operation).split([',', ' ']).any(|word| word == state.to_string());
                assert_eq!(begin(state, operation).is_some(), named, "{operation} from {state}");
            }
        }
    }
}
