//! The kernels compile for the devices they are meant for, and compute what they say: on the CPU
//! through a host compiler, and on a device where there is one.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod emulation;
mod machine;
mod numerics;

use machine::{Cpu, Device, Machine, find_nvrtc};
use storyloom_kernels::{KernelError, Kernels, entries, use_nvrtc_folder};

#[test]
fn every_kernel_compiles() {
    if !find_nvrtc() {
        return;
    }
    for arch in ["sm_80", "sm_90"] {
        let ptx = Kernels::compile(arch).unwrap().ptx();
        assert!(ptx.contains(&format!(".target {arch}")));
        // What comes before the first entry belongs to none.
        let found: Vec<&str> = ptx.split(".entry ").skip(1).collect();
        assert_eq!(found.len(), entries().count(), "{arch}");
        for name in entries() {
            let entry = found
                .iter()
                .find(|text| text.starts_with(&format!("{name}(")));
            let entry = entry.unwrap_or_else(|| panic!("{arch}: no {name}"));
            assert!(
                entry.contains("ld.global.nc.v4"),
                "{arch}: {name} reads one by one"
            );
            let sums = name.starts_with("square_sums");
            assert!(
                sums || entry.contains("st.global.v4"),
                "{arch}: {name} writes one by one"
            );
        }
    }
}

#[test]
fn a_refusal_of_nvrtc_carries_its_log() {
    if !find_nvrtc() {
        return;
    }
    match Kernels::compile("sm_1").unwrap_err() {
        KernelError::Compile { arch, log, .. } => {
            assert_eq!(arch, "sm_1");
            assert!(log.contains("gpu-architecture"), "{log}");
        }
        other => panic!("{other}"),
    }
}

#[test]
fn no_name_of_an_architecture_gets_to_nvrtc() {
    let error = Kernels::compile("sm_90 \0").unwrap_err();
    assert!(matches!(error, KernelError::Compile { .. }), "{error}");
}

#[test]
fn a_folder_without_nvrtc_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let error = use_nvrtc_folder(folder.path()).unwrap_err().to_string();
    assert!(error.ends_with("holds no libnvrtc-builtins.so*"), "{error}");
    let error = use_nvrtc_folder(&folder.path().join("absent"));
    assert!(matches!(error, Err(KernelError::Library { .. })));
    std::fs::write(
        folder.path().join("libnvrtc-builtins.so.13.0"),
        "no library",
    )
    .unwrap();
    let error = use_nvrtc_folder(folder.path());
    assert!(matches!(error, Err(KernelError::Library { .. })));
}

#[test]
fn without_a_driver_nothing_panics() {
    if storyloom_kernels::driver_is_available() {
        eprintln!("skipped: there is a driver");
        return;
    }
    let error = Kernels::load(0).unwrap_err();
    assert!(matches!(error, KernelError::NoDriver), "{error}");
}

#[test]
fn kernels_can_be_shared_by_threads() {
    fn shared<T: Send + Sync>() {}
    shared::<Kernels>();
}

#[test]
fn numerics_on_the_cpu() {
    let Some(forwards) = Cpu::new(false) else {
        return;
    };
    let found = numerics::check(&forwards);
    // Where a barrier is missing, the order of the threads shows.
    let backwards = Cpu::new(true).map(|machine| numerics::check(&machine));
    assert!(backwards.is_some_and(|bytes| bytes == found));
}

#[test]
fn numerics_on_a_device() {
    if let Some(device) = Device::new() {
        numerics::check(&device);
    }
}
