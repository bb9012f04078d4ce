//! First half of stage `select`: embeddings and quality of every frame, computed once.

use storyloom_models::vision::clip::{PixelRule, pixel_values};
use storyloom_nn::error::Result;
use storyloom_nn::image::plain_picture;
use storyloom_nn::tensor_file::to_host;
use storyloom_story::RgbImage;

use super::decode::Decoder;

/// Pictures that go through the vision tower at a time.
const BATCH: usize = 16;

impl Decoder {
    /// A unit-length embedding and a quality score for each picture.
    pub fn score(&self, pictures: &[&RgbImage]) -> Result<(Vec<Vec<f32>>, Vec<f32>)> {
        let mut embeddings = Vec::with_capacity(pictures.len());
        let mut quality = Vec::with_capacity(pictures.len());
        for batch in pictures.chunks(BATCH) {
            quality.extend(self.scorer.score(batch)?);
            let Some(clip) = &self.clip else {
                // Nobody looks at the memory, and nothing can tell these pictures apart.
                embeddings.extend(batch.iter().map(|_| vec![1.0]));
                continue;
            };
            let side = clip.config().image_size as u32;
            let plain = batch.iter().map(|picture| plain_picture(picture));
            let plain = plain.collect::<Result<Vec<_>>>()?;
            let plain: Vec<&image::RgbImage> = plain.iter().collect();
            let pixels = pixel_values(&plain, side, PixelRule::Selection(self.resize))?;
            let embedded = to_host(&clip.embed_normalised(&pixels)?)?;
            let width = embedded.shape()[1];
            embeddings.extend(embedded.data().chunks(width).map(<[f32]>::to_vec));
        }
        Ok((embeddings, quality))
    }
}
