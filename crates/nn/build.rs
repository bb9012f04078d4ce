//! Compiles the few lines of C++ that the bindings of libtorch lack, and lets the tests of this
//! crate find libtorch without `LD_LIBRARY_PATH`.

use std::env;
use std::path::PathBuf;

const SOURCE: &str = "src/layers/attention/native.cpp";

fn main() {
    for name in ["LIBTORCH", "LIBTORCH_INCLUDE", "LIBTORCH_CXX11_ABI"] {
        println!("cargo::rerun-if-env-changed={name}");
    }
    println!("cargo::rerun-if-changed={SOURCE}");
    let libtorch = env::var("LIBTORCH");
    if let Ok(libtorch) = &libtorch {
        println!("cargo::rustc-link-arg=-Wl,-rpath,{libtorch}/lib");
    }
    // The same variables in the same order as the bindings.
    let Ok(root) = env::var("LIBTORCH_INCLUDE").or(libtorch) else {
        println!("cargo::error=LIBTORCH must name the folder of libtorch; see scripts/setup.sh");
        return;
    };
    let abi = env::var("LIBTORCH_CXX11_ABI").unwrap_or_else(|_| "1".to_owned());
    cc::Build::new()
        .cpp(true)
        .std("c++17")
        .warnings(false)
        .include(PathBuf::from(root).join("include"))
        .define("_GLIBCXX_USE_CXX11_ABI", abi.as_str())
        .file(SOURCE)
        .compile("storyloom_attention");
}
