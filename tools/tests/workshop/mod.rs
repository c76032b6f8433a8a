//! A tiny recipe with its pictures, for tests of whole runs.

use crate::common::{Random, TempDir};

const PICTURES: usize = 24;
const RECIPE: &str = r#"
name = "tiny"
licence = "none: random squares"
seed = 5
about = "about.md"
[data]
validation = 6
split_seed = 1
flip = true
description = "squares"
source = { path = "pictures", layout = "folder", size = 16 }
[vqgan]
batch = 2
crop = 12
steps = 6
quantize_from = 2
squared_weight = 1.0
commitment = 0.25
model = { latent_channels = 4, widths = [8, 8], residuals = [1, 1], codebook_size = 16 }
optimizer = { rate = 1e-3, warmup = 2, weight_decay = 0.0, max_norm = 1.0, average_decay = 0.9 }
[denoiser]
rows = 4
cols = 4
thumbnail = true
levels_between = 1
margin = 1
position_embedding = true
previous_block = false
neighbours = 3
exclude_self = true
source = "database"
neighbour_dropout = 0.25
thumbnail_codebook_size = 8
timesteps = 50
schedule = "cosine"
prediction = "v"
min_snr = 5.0
thumbnail_share = 0.3
thumbnail_noise = 0.3
batch = 4
steps = 6
unet = { widths = [8], residuals = 1, embedding = 8, dropout = 0.2 }
optimizer = { rate = 1e-3, warmup = 2, weight_decay = 0.01, max_norm = 1.0, average_decay = 0.9 }
[consistency]
batch = 4
steps = 5
halvings = 2
optimizer = { rate = 1e-3, warmup = 2, weight_decay = 0.0, max_norm = 1.0, average_decay = 0.9 }
[decoder]
batch = 2
crop = 12
steps = 5
squared_weight = 1.0
difference_weight = 1.0
optimizer = { rate = 1e-3, warmup = 2, weight_decay = 0.0, max_norm = 1.0, average_decay = 0.9 }
discriminator = { width = 8, from = 2, weight = 0.25, rate = 1e-3 }
[sampling]
sampler = "dpm++2m"
steps = 3
guidance = 1.5
snap_to_codebook = true
[export]
weights = "int8"
[evaluation]
samples = 4
samplers = ["dpm++2m:3", "ddim:2@1", "consistency:2"]
"#;

/// A folder with the recipe and its pictures: squares of random colours, in the middle of those with even numbers and to
/// the left in the others.
pub fn workshop() -> TempDir {
    let dir = TempDir::new();
    let mut random = Random(11);
    std::fs::create_dir(dir.path().join("pictures")).unwrap();
    for i in 0..PICTURES {
        let mut colour = || [0; 3].map(|_| random.below(256) as u8);
        let (inside, outside) = (colour(), colour());
        let square =
            |x, y| if (4..12).contains(&(x + i as u32 % 2 * 4)) && (4..12).contains(&y) { inside } else { outside };
        let picture = image::RgbImage::from_fn(16, 16, |x, y| image::Rgb(square(x, y)));
        picture.save(dir.path().join(format!("pictures/{i}.png"))).unwrap();
    }
    std::fs::write(dir.path().join("tiny.toml"), RECIPE).unwrap();
    std::fs::write(dir.path().join("about.md"), "Squares, drawn by chance.\n").unwrap();
    dir
}
