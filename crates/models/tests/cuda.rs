//! The CUDA part of libtorch in a process of its own: what is opened stays open.

use storyloom_models::cuda;

/// Runs with and without the libraries that the CUDA part needs, and with and without a GPU.
#[test]
fn the_cuda_part_opens_or_says_why_not() {
    let folder = cuda::libtorch_folder().unwrap();
    match cuda::open() {
        Ok(path) => {
            assert_eq!(path, folder.join("libtorch_cuda.so"));
            assert_eq!(cuda::open(), Ok(path));
        }
        Err(error) => {
            eprintln!("skipped: the CUDA part of libtorch; {error}");
            assert!(error.to_string().contains("libtorch_cuda.so"), "{error}");
        }
    }
    // Whatever the answer, libtorch goes on.
    let devices = cuda::devices().unwrap_or(0);
    assert_eq!(devices > 0, storyloom_models::tch::Cuda::is_available());
    let ones = storyloom_models::tch::Tensor::ones(
        [3],
        (
            storyloom_models::tch::Kind::Float,
            storyloom_models::tch::Device::Cpu,
        ),
    );
    assert_eq!(ones.sum(ones.kind()).double_value(&[]), 3.0);
}
