//! Tests of the shipped reader.

use storyloom_tinyworld::{Sample, Split};

use super::*;

#[test]
fn the_shipped_reader_reads_drawn_pictures() {
    let accuracy = measure(&Reader::shipped().unwrap(), Split::HeldOut, 10).unwrap();
    assert_eq!(accuracy.pictures, 240);
    for (attribute, share) in &accuracy.attributes {
        // On 100 stories each is at least 0.97; ten have fewer of everything.
        assert!(*share > 0.93, "{attribute}: {share}");
    }
}

#[test]
fn the_shipped_weights_are_small() {
    assert!(SHIPPED.len() <= 1 << 20, "{}", SHIPPED.len());
}

#[test]
fn pictures_of_other_sizes_are_read_too() {
    let scene = Sample::draw(1, 1, Split::HeldOut).scene;
    let sizes = [(160, 96), (320, 192)].map(|(w, h)| scene.render_at(0.5, w, h).unwrap());
    let readings = Reader::untrained().unwrap().read(&sizes).unwrap();
    for &attribute in Attribute::ALL {
        let sums = [0, 1].map(|at| readings[at].shares(attribute).iter().sum::<f32>());
        assert!(sums.iter().all(|sum| (sum - 1.0).abs() < 1e-4), "{sums:?}");
    }
    // The larger one is scaled: hardly another picture.
    for &attribute in Attribute::ALL {
        let [small, large] = [0, 1].map(|at| readings[at].shares(attribute));
        for (small, large) in small.iter().zip(large) {
            assert!((small - large).abs() < 0.1, "{small} {large}");
        }
    }
}

#[test]
fn weights_that_do_not_fit_are_refused() {
    let error = Reader::of(&Tensors::new()).unwrap_err().to_string();
    assert!(error.contains("conv0.weight"), "{error}");
}
