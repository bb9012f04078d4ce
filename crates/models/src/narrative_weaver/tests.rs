//! The vector `memory_pooling`, and the invariants of specification `narrative-weaver`, section 7, items 1 to 4.

use storyloom_nn::checkpoint::Target;
use storyloom_nn::testing::vectors::{assert_near, flux_vector, numbers, wave};
use storyloom_nn::testing::{cosines, fill_checkpoint};
use storyloom_story::narrative_weaver::{BankSettings, Level, Pooling, TokenGrid, frame_ids};
use tch::{Device, Kind, Tensor};

use super::*;

fn bank(lambda: f64, frames: u32, grid: TokenGrid, condition: Option<Tensor>) -> MemoryBank {
    let levels = BankSettings { lambda, frames }.levels(grid).unwrap();
    MemoryBank::new(levels, condition).unwrap()
}

fn to_grid(picture: &Tensor, from: TokenGrid, to: TokenGrid) -> Tensor {
    let pooling = Pooling::Grid { grid: to };
    pool(picture, from, Level { age: 2, pooling }).unwrap()
}

fn to_line(picture: &Tensor, from: TokenGrid, tokens: u64) -> Tensor {
    let pooling = Pooling::Line { tokens };
    pool(picture, from, Level { age: 2, pooling }).unwrap()
}

fn apart(found: &Tensor, expected: &Tensor) -> f64 {
    assert_eq!(found.size(), expected.size());
    (found - expected).abs().max().double_value(&[])
}

fn mean(tokens: &Tensor) -> Tensor {
    tokens.mean_dim([0_i64].as_slice(), false, Kind::Double)
}

#[test]
fn cells_are_those_of_the_vector() {
    let picture = Tensor::arange(30, (Kind::Float, Device::Cpu)).view([15, 2]);
    let pooled = to_grid(&picture, [5, 3], [2, 1]);
    assert_eq!(pooled.size(), [2, 2]);
    let found = Vec::<f64>::try_from(pooled.to_kind(Kind::Double).view([-1])).unwrap();
    let expected = numbers(&flux_vector("memory_pooling/output"));
    assert_near("memory_pooling", &found, &expected, 1e-6);
    // Along the tokens: the third of five counts twice.
    let line = to_line(&picture.narrow(0, 0, 5), [1, 5], 2);
    assert_eq!(
        line,
        Tensor::from_slice(&[2.0_f32, 3.0, 6.0, 7.0]).view([2, 2])
    );
}

/// Item 3.
#[test]
fn means_are_kept_where_sides_divide() {
    let picture = wave(0.37, 0.2, &[1024, 6]);
    let constant = Tensor::full([1024, 6], 0.625, (Kind::Float, Device::Cpu));
    for grid in [[16, 16], [8, 8], [4, 4], [2, 2], [1, 1]] {
        let pooled = to_grid(&picture, [32, 32], grid);
        assert_eq!(pooled.size(), [i64::from(grid[0] * grid[1]), 6]);
        assert!(apart(&mean(&pooled), &mean(&picture)) < 1e-6);
        let flat = to_grid(&constant, [32, 32], grid);
        assert!(apart(&flat, &constant.narrow(0, 0, flat.size()[0])) < 1e-6);
    }
    for tokens in [512, 64, 1] {
        let pooled = to_line(&picture, [32, 32], tokens);
        assert!(apart(&mean(&pooled), &mean(&picture)) < 1e-6);
    }
    let uneven = to_line(&constant, [32, 32], 303);
    assert!(apart(&uneven, &constant.narrow(0, 0, 303)) < 1e-6);
    let whole = to_grid(&picture, [32, 32], [32, 32]);
    assert!(whole.equal(&picture) && to_line(&picture, [32, 32], 1024).equal(&picture));
}

/// Item 3: why the bank holds whole pictures.
#[test]
fn means_of_means_are_the_means_only_where_sides_divide() {
    let even = wave(0.37, 0.2, &[1024, 6]);
    let twice = to_grid(&to_grid(&even, [32, 32], [16, 16]), [16, 16], [8, 8]);
    assert!(apart(&twice, &to_grid(&even, [32, 32], [8, 8])) < 1e-6);
    let uneven = wave(0.37, 0.2, &[1590, 6]);
    let twice = to_grid(&to_grid(&uneven, [30, 53], [15, 26]), [15, 26], [7, 13]);
    assert!(apart(&twice, &to_grid(&uneven, [30, 53], [7, 13])) > 1e-3);
}

/// A picture whose values are all `number`.
fn filled(number: i64, grid: TokenGrid) -> Tensor {
    let tokens = i64::from(grid[0] * grid[1]);
    Tensor::full([tokens, 3], number, (Kind::Float, Device::Cpu))
}

/// Items 1, 2 and 4: the newest first, and what is older than the memory is gone.
#[test]
fn a_picture_sees_the_newest_first_and_always_the_condition_image() {
    let grid = [4, 4];
    let condition = cosines(&[16, 3], 0.4);
    for frames in 0..=3 {
        let mut bank = bank(4.0, frames, grid, Some(condition.shallow_clone()));
        for number in 1..8_u32 {
            let held: Vec<f64> = bank
                .pictures()
                .map(|picture| picture.double_value(&[0, 0]))
                .collect();
            let seen = bank.levels().settings().seen(number).rev();
            assert_eq!(held, seen.map(f64::from).collect::<Vec<_>>());
            let context = bank.context().unwrap();
            let tokens = context.tokens.unwrap();
            let length = bank.levels().tokens(number) as i64;
            assert_eq!(tokens.size(), [16 + length, 3]);
            assert_eq!(context.ids.len() as i64, 16 + length);
            assert_eq!(context.ids[..16], frame_ids(1.0, grid));
            assert!(tokens.narrow(0, 0, 16).equal(&condition));
            let (mut first, mut expected) = (16, f64::from(number) - 1.0);
            assert_eq!(context.kinds[0], (ContextKind::Condition, 16));
            for ((kind, count), age) in context.kinds[1..].iter().zip(1..) {
                assert_eq!(*kind, ContextKind::Memory { age });
                let of_picture = tokens.narrow(0, first, *count as i64);
                assert!(apart(&of_picture, &of_picture.full_like(expected)) < 1e-6);
                assert_eq!(context.ids[first as usize][0], f64::from(age) + 1.0);
                first += *count as i64;
                expected -= 1.0;
            }
            assert_eq!(first, 16 + length);
            bank.push(filled(i64::from(number), grid)).unwrap();
        }
        assert!(bank.condition().unwrap().equal(&condition));
    }
}

#[test]
fn the_first_picture_of_a_story_without_a_condition_image_sees_nothing() {
    let mut bank = bank(4.0, 2, [4, 4], None);
    let first = bank.context().unwrap();
    assert!(first.tokens.is_none() && first.ids.is_empty() && first.kinds.is_empty());
    bank.push(filled(1, [4, 4])).unwrap();
    let second = bank.context().unwrap();
    assert_eq!(second.kinds, [(ContextKind::Memory { age: 1 }, 16)]);
    assert_eq!(second.ids, frame_ids(2.0, [4, 4]));
}

/// The bytes of the latents stay as they were; pooling is f32 whatever they are.
#[test]
fn pictures_are_held_as_they_were_given() {
    let picture = wave(0.37, 0.2, &[16, 3]).to_kind(Kind::BFloat16);
    let mut bank = bank(4.0, 2, [4, 4], None);
    for _ in 0..2 {
        bank.push(picture.shallow_clone()).unwrap();
    }
    assert!(
        bank.pictures()
            .all(|held| held.kind() == Kind::BFloat16 && held.equal(&picture))
    );
    let context = bank.context().unwrap().tokens.unwrap();
    let float = picture.to_kind(Kind::Float);
    assert_eq!(context.kind(), Kind::Float);
    assert!(context.narrow(0, 0, 16).equal(&float));
    assert!(
        context
            .narrow(0, 16, 4)
            .equal(&to_grid(&float, [4, 4], [2, 2]))
    );
}

#[test]
fn pictures_of_other_sizes_are_refused() {
    let levels = BankSettings::default().levels([32, 32]).unwrap();
    let error = MemoryBank::new(levels, Some(filled(1, [4, 4]))).unwrap_err();
    assert!(error.to_string().contains("1024 tokens"), "{error}");
    let mut bank = bank(4.0, 2, [4, 4], Some(filled(1, [4, 4])));
    assert!(bank.push(cosines(&[16, 4], 0.1)).is_err(), "other channels");
    assert!(bank.push(cosines(&[16], 0.1)).is_err());
    let level = bank.levels().all()[1];
    assert!(pool(&filled(1, [3, 4]), [4, 4], level).is_err());
}

fn embeddings() -> TypeEmbeddings {
    let config = config();
    let folder = tempfile::tempdir().unwrap();
    let mut json = serde_json::to_value(&config).unwrap();
    json["_class_name"] = ContextConfig::CLASS.into();
    fill_checkpoint(folder.path(), &json.to_string(), 0.3, |weights| {
        TypeEmbeddings::load(weights, &config).map(drop)
    });
    TypeEmbeddings::open(folder.path(), Target::CPU_F32).unwrap()
}

fn config() -> ContextConfig {
    ContextConfig {
        width: 8,
        memory: BankSettings {
            lambda: 4.0,
            frames: 2,
        },
    }
}

#[test]
fn each_kind_has_a_row_of_its_own() {
    let embeddings = embeddings();
    assert_eq!(embeddings.memory(), config().memory);
    let memory = |age| ContextKind::Memory { age };
    let kinds = [(ContextKind::Condition, 3), (memory(1), 2), (memory(2), 1)];
    let rows = embeddings.rows(&kinds).unwrap();
    assert_eq!(rows.size(), [6, 8]);
    for (token, same) in [(0, 1), (1, 2), (3, 4)] {
        assert!(rows.get(token).equal(&rows.get(same)));
    }
    for (token, other) in [(2, 3), (4, 5), (0, 5)] {
        assert!(apart(&rows.get(token), &rows.get(other)) > 1e-2);
    }
    let error = embeddings.rows(&[(memory(3), 1)]).unwrap_err();
    assert!(error.to_string().contains("number 3"), "{error}");
    // Where there are none, nothing is added.
    let none = TypeEmbeddings::zeros(&config(), Target::CPU_F32).unwrap();
    let rows = none.rows(&kinds).unwrap();
    assert!(rows.equal(&rows.zeros_like()));
}

#[test]
fn embeddings_of_another_memory_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let mut json = serde_json::to_value(config()).unwrap();
    json["_class_name"] = ContextConfig::CLASS.into();
    json["memory"]["frames"] = 3.into();
    fill_checkpoint(folder.path(), &json.to_string(), 0.3, |weights| {
        TypeEmbeddings::load(weights, &config()).map(drop)
    });
    let open = || {
        TypeEmbeddings::open(folder.path(), Target::CPU_F32)
            .unwrap_err()
            .to_string()
    };
    assert!(open().contains("type_embed.weight"), "{}", open());
    json["memory"]["frames"] = 65.into();
    std::fs::write(folder.path().join("config.json"), json.to_string()).unwrap();
    assert!(open().contains("at most 64"), "{}", open());
}
