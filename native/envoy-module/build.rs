//! The library stays in the process once it is loaded: its timer thread and its pools outlive any one configuration.

fn main() {
    println!("cargo:rustc-cdylib-link-arg=-Wl,-z,nodelete");
    println!("cargo:rerun-if-changed=build.rs");
}
