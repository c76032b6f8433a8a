//! temporary driver
use rissole_train::{backend::cpu::Cpu, train::vqgan::*};
fn main() {
    let args: Vec<String> = std::env::args().collect();
    let config: VqganTraining = toml::from_str(&std::fs::read_to_string(&args[1]).unwrap()).unwrap();
    let mut files: Vec<_> = std::fs::read_dir(&args[2])
        .unwrap()
        .map(|e| e.unwrap().path())
        .filter(|p| p.extension().is_some_and(|e| e == "png"))
        .collect();
    files.sort();
    let limit: usize = args[4].parse().unwrap();
    files.truncate(limit);
    let mut pixels = Vec::new();
    for f in &files {
        pixels.extend_from_slice(image::open(f).unwrap().to_rgb8().as_raw());
    }
    let n = files.len();
    let len = 64 * 64 * 3;
    let cpu = Cpu::default();
    let mut tr = VqganTrainer::new(&cpu, &config, 1);
    let ckpt = std::path::PathBuf::from(&args[3]);
    tr.resume(&ckpt).unwrap();
    eprintln!("{} parameters, step {}", tr.parameters(), tr.step);
    let start = std::time::Instant::now();
    let mut sums = [0.0; 5];
    let mut count = 0.0;
    while tr.step < config.steps {
        let mut batch = Vec::with_capacity(config.batch * len);
        for _ in 0..config.batch {
            let i = tr.random.below(n);
            batch.extend(pixels[i * len..][..len].iter().map(|&p| f32::from(p) / 127.5 - 1.0));
        }
        let l = tr.train(&batch, 64, 64);
        for (s, v) in sums.iter_mut().zip([l.absolute, l.squared, l.commitment, l.adversarial_weight, l.discriminator])
        {
            *s += v;
        }
        count += 1.0;
        if tr.step % 50 == 0 {
            println!(
                "{} {:.0}s {:?} revived {}",
                tr.step,
                start.elapsed().as_secs_f64(),
                sums.map(|s| (s / count * 1e5).round() / 1e5),
                l.revived
            );
            sums = [0.0; 5];
            count = 0.0;
        }
        if tr.step % 250 == 0 {
            tr.save(&ckpt).unwrap();
        }
    }
    tr.save(&ckpt).unwrap();
}
