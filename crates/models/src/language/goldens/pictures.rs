//! Prompts with pictures.

use image::RgbImage;
use storyloom_nn::testing::golden;

use super::*;

/// The pictures of `scripts/parity/language.py`.
fn picture(width: u32, height: u32) -> RgbImage {
    RgbImage::from_fn(width, height, |x, y| {
        image::Rgb([(x * 3 + y * 2) % 256, x * 5 % 256, y * 7 % 256].map(|level| level as u8))
    })
}

pub(super) fn seen(model: &LanguageModel) -> Vec<ImagePatches> {
    let limits = PixelLimits::open(&golden(SEEING)).unwrap();
    let config = model.vision().unwrap().config();
    [picture(150, 90), picture(40, 64)]
        .iter()
        .map(|picture| ImagePatches::new(picture, config, limits).unwrap())
        .collect()
}

#[test]
fn pictures_are_cut_and_seen_as_by_transformers() {
    let (model, io) = (load(SEEING), io(SEEING));
    let images = seen(&model);
    let grids: Vec<i64> = images.iter().flat_map(|image| image.grid).collect();
    assert_eq!(Tensor::from_slice(&grids).view([2, 3]), io["grids"]);
    let pixels: Vec<&Tensor> = images.iter().map(|image| &image.pixels).collect();
    let pixels = Tensor::cat(&pixels, 0);
    let kept = Tensor::arange_start_step(0, pixels.size()[0], 17, (Kind::Int64, tch::Device::Cpu));
    assert_close("pixels", &pixels.index_select(0, &kept), &io["pixels"]);
    let tower = model.vision().unwrap();
    let grids: Vec<_> = images.iter().map(|image| image.grid).collect();
    let split = ImagePatches::split(&pixels, &grids).unwrap();
    assert!(ImagePatches::split(&pixels, &grids[..1]).is_err());
    for (image, split) in images.iter().zip(&split) {
        assert_eq!(image.pixels, split.pixels);
    }
    let features: Vec<Tensor> = images
        .iter()
        .map(|image| tower.forward(image).unwrap())
        .collect();
    assert_close("features", &Tensor::cat(&features, 0), &io["features"]);
}

#[test]
fn prompts_with_pictures() {
    let (model, io) = (load(SEEING), io(SEEING));
    let prompt = ids(&io["prompt"]);
    let images = seen(&model);
    let grids: Vec<_> = images.iter().map(|image| image.grid).collect();
    let vision = model.vision().unwrap().config();
    let positions = prompt_positions(&prompt, &grids, vision).unwrap();
    assert_eq!(positions.tensor().unwrap(), io["positions"]);
    let delta = positions.next - prompt.len() as i64;
    assert_eq!(delta, io["delta"].int64_value(&[0, 0]));

    let embedded = model.embed(&prompt, &images).unwrap();
    let hidden = model.decoder().forward(ForwardArgs {
        input: Input::Embeddings(&embedded),
        positions: Some(&positions.tensor().unwrap()),
        mask: None,
        cache: None,
    });
    let logits = model
        .decoder()
        .logits(&hidden.unwrap())
        .unwrap()
        .squeeze_dim(0);
    let kept = Tensor::arange_start_step(0, logits.size()[0], 3, (Kind::Int64, tch::Device::Cpu));
    assert_close("logits", &logits.index_select(0, &kept), &io["logits"]);

    let with_pictures = Request {
        images,
        ..request(prompt, Sampling::greedy(64))
    };
    let plain = request(ids(&io["plain.prompt"]), Sampling::greedy(64));
    let made = texts(&model, 2, vec![with_pictures, plain]);
    assert_eq!(made[0].tokens, ids(&io["greedy"]));
    assert_eq!(made[1].tokens, ids(&io["plain.greedy"]));
}

/// From messages to tokens: a place for every part of a picture.
#[test]
fn messages_with_pictures_become_prompts() {
    let model = load(SEEING);
    let parts = vec![
        Content::Image(picture(150, 90)),
        Content::Text("What?".to_owned()),
    ];
    let mut message = Message {
        role: Role::User,
        content: parts,
    };
    let prompt = model
        .prompt(std::slice::from_ref(&message), &ChatOptions::default())
        .unwrap();
    let token = model.vision().unwrap().config().image_token;
    let places = prompt.tokens.iter().filter(|&&id| id == token).count() as i64;
    assert_eq!(prompt.images[0].grid, [1, 6, 10]);
    assert_eq!(places, 15);
    message
        .content
        .push(Content::Text("<|image_pad|>".to_owned()));
    let error = model
        .prompt(&[message.clone()], &ChatOptions::default())
        .unwrap_err();
    assert!(
        error.to_string().contains("2 places for 1 pictures"),
        "{error}"
    );
    let blind = load("language-qwen3");
    let error = blind
        .prompt(&[message], &ChatOptions::default())
        .unwrap_err();
    assert!(error.to_string().contains("does not see"), "{error}");
}
