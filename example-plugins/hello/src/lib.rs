use plugin_abi::{Plugin, PluginResult, export_plugin};
struct Hello;
impl Plugin for Hello {
    fn call(&mut self, _method: &str, name: &[u8]) -> PluginResult {
        Ok([b"hello, ", name].concat())
    }
}
export_plugin!(Hello, id: "hello", description: "greets whoever calls");
