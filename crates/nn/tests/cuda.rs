//! The CUDA part of libtorch in a process of its own: what is opened stays open.

use storyloom_nn::cuda;
use storyloom_nn::tch::{Cuda, Device, Kind, Tensor, utils};

/// Runs with and without the libraries that the CUDA part needs, and with and without a GPU.
#[test]
fn the_cuda_part_opens_or_says_why_not() {
    let folder = cuda::libtorch_folder().unwrap();
    match cuda::open() {
        Ok(path) => {
            assert_eq!(path, folder.join("libtorch_cuda.so"));
            assert_eq!(cuda::open(), Ok(path));
            // libtorch knows of it, with or without a GPU.
            assert!(utils::has_cudart());
        }
        Err(error) => {
            eprintln!("skipped: the CUDA part of libtorch; {error}");
            assert!(error.to_string().contains("libtorch_cuda.so"), "{error}");
        }
    }
    // Whatever the answer, libtorch goes on.
    assert_eq!(
        cuda::devices().is_ok_and(|count| count > 0),
        Cuda::is_available()
    );
    let ones = Tensor::ones([3], (Kind::Float, Device::Cpu));
    assert_eq!(ones.sum(Kind::Float).double_value(&[]), 3.0);
}
