//! The report as one HTML page that needs nothing else: style, pictures and plots are within it.

use std::fmt::Write;

use image::RgbImage;
use rissole::Result;

use super::copy::Nearest;
use super::measure::{Kind, Row};
use super::report::{Curve, Gallery, Report};
use super::sheet::{columns, sheet_url};
use crate::plot::{escape, group_thousands, line_plot, smooth};

const STYLE: &str = include_str!("report.css");
/// Rows of pictures in a sample grid.
const SHEET_ROWS: usize = 6;

/// The whole page.
///
/// # Errors
/// [`rissole::Error::Internal`] when a picture cannot be encoded.
pub fn page(report: &Report, gallery: &Gallery, curves: &[(String, Curve)]) -> Result<String> {
    let title = escape(&format!("{}: evaluation", report.bundle));
    let mut page = format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n<title>{title}</title>\n<style>\n{STYLE}</style>\n\
         </head>\n<body>\n<main>\n"
    );
    header(&mut page, report);
    key_figures(&mut page, &report.rows);
    pictures(&mut page, gallery)?;
    measures(&mut page, report);
    copying(&mut page, report, gallery)?;
    training(&mut page, curves);
    method(&mut page, report);
    page.push_str("</main>\n</body>\n</html>\n");
    Ok(page)
}

fn header(page: &mut String, report: &Report) {
    let Report { bundle, data, training_pictures, held_out_pictures, .. } = report;
    let held_out = match report.split_seed {
        Some(seed) => format!("drawn with seed {seed}"),
        None => "the last in order".to_owned(),
    };
    let network = match &report.features {
        Some(features) => format!("{} → {} values", features.network, features.dim),
        None => "none".to_owned(),
    };
    let facts = [
        ("Pictures", data.clone()),
        ("Training part", format!("{} pictures, which the database is made of", thousands(*training_pictures))),
        ("Reference set", format!("{} held-out pictures, {held_out}", thousands(*held_out_pictures))),
        ("Feature network", network),
        ("Samples", format!("seeds from {}", report.seed)),
        ("Own neighbour", if report.exclude_self { "excluded" } else { "allowed" }.to_owned()),
    ];
    let _ = write!(
        page,
        "<header>\n<p class=\"kind\">Evaluation of a rissole bundle</p>\n<h1>{}</h1>\n<dl>\n",
        escape(bundle)
    );
    for (name, value) in facts {
        let _ = writeln!(page, "<div><dt>{name}</dt><dd>{}</dd></div>", escape(&value));
    }
    page.push_str("</dl>\n</header>\n");
    let caveats = report.caveats();
    if !caveats.is_empty() {
        page.push_str("<aside>\n<ul>\n");
        for caveat in caveats {
            let _ = writeln!(page, "<li>{}</li>", escape(&caveat));
        }
        page.push_str("</ul>\n</aside>\n");
    }
}

/// The measures of the first setting, large.
fn key_figures(page: &mut String, rows: &[Row]) {
    let Some(row) = rows.iter().find(|row| row.kind == Kind::Samples) else { return };
    let figures = [
        ("Fréchet distance", row.frechet.map(|v| format!("{v:.2}")), "lower is better"),
        ("KID × 1000", row.kid.map(|k| short(k.mean * 1e3)), "lower is better"),
        ("Seam ratio, real = 1", row.seam_ratio_to_real.map(|v| format!("{v:.3}")), "1 is seamless"),
        ("Copy distance, real = 1", row.copy.map(|c| format!("{:.2}", c.ratio)), "well under 1 is copying"),
    ];
    let _ = writeln!(page, "<section class=\"figures\" aria-label=\"{}\">", escape(&row.name));
    for (name, value, note) in figures {
        let value = value.unwrap_or_else(|| "–".into());
        let _ = writeln!(page, "<div><span>{name}</span><strong>{value}</strong><small>{note}</small></div>");
    }
    let _ = write!(page, "</section>\n<p class=\"note\">{}.</p>\n", escape(&row.name));
}

fn pictures(page: &mut String, gallery: &Gallery) -> Result<()> {
    page.push_str("<section>\n<h2>Pictures</h2>\n");
    for (name, images) in &gallery.samples {
        grid(page, images, name)?;
    }
    grid(page, &gallery.real, "Held-out pictures")?;
    if let Some((first, _)) = gallery.reconstructions.first() {
        let shown = columns(first.width()).min(gallery.reconstructions.len());
        let pairs = &gallery.reconstructions[..shown];
        let sheet = pairs.iter().map(|p| &p.0).chain(pairs.iter().map(|p| &p.1));
        figure(page, &sheet_url(sheet, shown)?, "Held-out pictures (above) and their reconstructions (below)");
    }
    page.push_str("</section>\n");
    Ok(())
}

fn grid(page: &mut String, images: &[RgbImage], caption: &str) -> Result<()> {
    if images.is_empty() {
        return Ok(());
    }
    let (images, columns) = sample_grid(images);
    figure(page, &sheet_url(images, columns)?, caption);
    Ok(())
}

fn figure(page: &mut String, url: &str, caption: &str) {
    let caption = escape(caption);
    let _ = writeln!(page, "<figure><img src=\"{url}\" alt=\"{caption}\"><figcaption>{caption}</figcaption></figure>");
}

fn measures(page: &mut String, report: &Report) {
    page.push_str(
        "<section>\n<h2>Measures</h2>\n<div class=\"scroll\"><table>\n<thead><tr><th>Pictures</th><th>Number</th>\
         <th>Fréchet</th><th>KID × 1000</th><th>Seam ratio</th><th>Seam / real</th><th>Copy / real</th></tr>\
         </thead>\n<tbody>\n",
    );
    for row in &report.rows {
        let reference = row.kind == Kind::HeldOut;
        let missing = || if reference { "reference" } else { "–" }.to_owned();
        let cells = [
            thousands(row.pictures),
            row.frechet.map_or_else(missing, |v| format!("{v:.2}")),
            row.kid.map_or_else(missing, |k| format!("{} ± {}", short(k.mean * 1e3), short(k.std * 1e3))),
            row.seam_ratio.map_or_else(|| "–".into(), |v| format!("{v:.3}")),
            row.seam_ratio_to_real.map_or_else(|| "–".into(), |v| format!("{v:.3}")),
            row.copy.map_or_else(missing, |c| format!("{:.2}", c.ratio)),
        ];
        let class = if row.kind == Kind::Samples { " class=\"samples\"" } else { "" };
        let _ = write!(page, "<tr{class}><th scope=\"row\">{}</th>", escape(&row.name));
        for cell in cells {
            let _ = write!(page, "<td>{cell}</td>");
        }
        page.push_str("</tr>\n");
    }
    page.push_str("</tbody>\n</table></div>\n</section>\n");
}

fn copying(page: &mut String, report: &Report, gallery: &Gallery) -> Result<()> {
    page.push_str("<section>\n<h2>Copying</h2>\n");
    let copies = report.rows.iter().filter_map(|row| row.copy.map(|copy| (row, copy)));
    let mut table = String::new();
    for (row, copy) in copies {
        let _ = writeln!(
            table,
            "<tr><th scope=\"row\">{}</th><td>{:.1}</td><td>{:.1}</td><td>{:.2}</td><td>{:.1}</td><td>{:.1} %</td></tr>",
            escape(&row.name),
            copy.samples,
            copy.held_out,
            copy.ratio,
            copy.closest_sample,
            copy.suspect * 100.0
        );
    }
    if !table.is_empty() {
        let _ = write!(
            page,
            "<div class=\"scroll\"><table>\n<thead><tr><th>Samples</th><th>Mean distance</th><th>Of held-out</th>\
             <th>Ratio</th><th>Closest</th><th>Suspect</th></tr></thead>\n<tbody>\n{table}</tbody>\n</table></div>\n\
             <p class=\"note\">Distances to the nearest database picture, RMS over pixels and channels in 8-bit levels. \
             Suspect: nearer to the database than 99 % of held-out pictures, so 1 % is what chance gives.</p>\n"
        );
    }
    let cumulative: Vec<_> = report.rows.iter().filter(|row| !row.nearest.is_empty()).map(cumulative).collect();
    let series: Vec<(&str, &[(f64, f64)])> = cumulative.iter().map(|(name, points)| (*name, &points[..])).collect();
    if !series.is_empty() {
        page.push_str(&line_plot(
            "Distance to the nearest database picture",
            "RMS distance (8-bit levels)",
            "pictures at most this far (%)",
            &series,
            false,
        ));
    }
    if !gallery.suspects.is_empty() {
        let shown = gallery.suspects.len();
        let images = gallery.suspects.iter().map(|s| &s.0).chain(gallery.suspects.iter().map(|s| &s.1));
        let distances: Vec<String> = gallery.suspects.iter().map(|s| format!("{:.1}", s.2)).collect();
        let caption = format!(
            "The {shown} samples nearest to the database (above) and the pictures they are nearest to (below); \
             RMS distances {}",
            distances.join(", ")
        );
        figure(page, &sheet_url(images, shown)?, &caption);
    }
    page.push_str("</section>\n");
    Ok(())
}

/// The share of pictures, in percent, whose nearest database picture is at most so far away.
fn cumulative(row: &Row) -> (&str, Vec<(f64, f64)>) {
    let mut distances: Vec<f64> = row.nearest.iter().map(|&Nearest { distance, .. }| distance).collect();
    distances.sort_by(f64::total_cmp);
    let count = distances.len() as f64;
    (&row.name, (1..).zip(distances).map(|(i, d)| (d, 100.0 * f64::from(i) / count)).collect())
}

fn training(page: &mut String, curves: &[(String, Curve)]) {
    if curves.is_empty() {
        return;
    }
    page.push_str("<section>\n<h2>Training</h2>\n");
    for (name, curve) in curves {
        page.push_str(&training_plot(name, curve));
    }
    page.push_str("<p class=\"note\">Logarithmic scale; smoothed over 2 % of the points.</p>\n</section>\n");
}

/// The training curve as an SVG, smoothed over 2 % of its points.
pub fn training_plot(name: &str, curve: &Curve) -> String {
    let smoothed: Vec<_> = curve.iter().map(|(name, points)| (name, smooth(points, points.len() / 100))).collect();
    let series: Vec<(&str, &[(f64, f64)])> =
        smoothed.iter().map(|(name, points)| (name.as_str(), &points[..])).collect();
    line_plot(&format!("Training curve: {name}"), "step", "loss", &series, true)
}

/// The pictures of a sample grid, as many as fill it, and its columns.
pub fn sample_grid(images: &[RgbImage]) -> (&[RgbImage], usize) {
    let columns = columns(images.first().map_or(1, RgbImage::width));
    (&images[..images.len().min(columns * SHEET_ROWS)], columns)
}

fn method(page: &mut String, report: &Report) {
    page.push_str("<section>\n<h2>How it is measured</h2>\n<dl class=\"method\">\n");
    let features = report.features.as_ref().map(|features| {
        let subsets = report.rows.iter().find_map(|row| row.kid).map_or_else(String::new, |kid| {
            format!(" Mean ± standard deviation over {} subsets of {}.", kid.subsets, thousands(kid.subset_size))
        });
        let name = &features.network;
        [
            ("Fréchet distance", format!("Squared Fréchet distance between Gaussians fitted to the features of {name}, of the pictures and of the reference set. It depends on the network and on the number of pictures: compare only what was measured alike.")),
            ("KID", format!("Unbiased squared maximum mean discrepancy of the same features under the kernel (x·y/d + 1)³, times 1000.{subsets} It hardly sees seams, and rewards copying.")),
        ]
    });
    let others = [
        ("Seam ratio", "Mean absolute pixel difference across block boundaries over that across all other boundaries of latent cells. Real pictures have a ratio of their own, to which the second column compares.".to_owned()),
        ("Copy distance", "Mean RMS pixel distance of a sample to its nearest database picture, found exactly, over the same for held-out pictures. Well under 1 means that the database is copied.".to_owned()),
        ("Reading them", "No single number is enough: copies score best on Fréchet distance and KID, and blur lowers the copy distance. Read them together, beside the pictures. Training pictures show what perfect samples would measure; reconstructions, what the autoencoder allows.".to_owned()),
    ];
    for (name, text) in features.into_iter().flatten().chain(others) {
        let _ = writeln!(page, "<dt>{name}</dt><dd>{}</dd>", escape(&text));
    }
    let _ = write!(
        page,
        "</dl>\n<p class=\"note\">BLAKE3 of the bundle's list of files {}.</p>\n</section>\n",
        escape(&report.files_blake3)
    );
}

/// Two decimals, or three where there is nothing before the point.
fn short(value: f64) -> String {
    let text = if value.abs() < 1.0 { format!("{value:.3}") } else { format!("{value:.2}") };
    text.replace('-', "−")
}

fn thousands(n: usize) -> String {
    group_thousands(&n.to_string())
}
