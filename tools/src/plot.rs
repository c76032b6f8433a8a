//! Line plots as self-contained SVG, for the model card and the evaluation report.
//!
//! A plot carries its own style, follows the reader's light or dark setting, and needs no script or font file.

use std::fmt::Write;

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 380.0;
const LEFT: f64 = 66.0;
const RIGHT: f64 = 20.0;
const BOTTOM: f64 = 50.0;
/// Width of a character at the label size; fonts differ, so it is on the wide side.
const CHARACTER: f64 = 6.9;

/// Colours of series in light and in dark mode, told apart also by colour-blind readers.
const COLOURS: [(&str, &str); 6] = [
    ("#2a6fdb", "#6ea8ff"),
    ("#d9541e", "#ff9a66"),
    ("#16857a", "#4fd1c1"),
    ("#9a46b8", "#d49bf0"),
    ("#a07800", "#e6c04a"),
    ("#5b6673", "#a9b4c0"),
];

/// Draws `series` (name, points) as lines over one pair of axes and gives the SVG document.
///
/// Points are taken in the order given. Those that are not finite, or not positive where `log_y` asks for a
/// logarithmic axis, are left out. Ticks are round numbers; a legend names the series when there are several.
pub fn line_plot(title: &str, x_label: &str, y_label: &str, series: &[(&str, &[(f64, f64)])], log_y: bool) -> String {
    let drawable = |&(x, y): &(f64, f64)| x.is_finite() && y.is_finite() && (!log_y || y > 0.0);
    let lines: Vec<(&str, Vec<(f64, f64)>)> =
        series.iter().map(|&(name, points)| (name, points.iter().copied().filter(drawable).collect())).collect();
    let legend = if lines.len() > 1 { legend_rows(&lines) } else { Vec::new() };
    let top = 44.0 + 20.0 * legend.len() as f64;
    let points = || lines.iter().flat_map(|(_, points)| points);
    let x = Axis::linear(points().map(|p| p.0), (LEFT, WIDTH - RIGHT));
    let y_range = (HEIGHT - BOTTOM, top);
    let ys = points().map(|p| p.1);
    let y = if log_y { Axis::logarithmic(ys, y_range) } else { Axis::linear(ys, y_range) };

    let mut svg = String::new();
    open(&mut svg, title);
    draw_legend(&mut svg, &legend);
    draw_axes(&mut svg, &x, &y, top, x_label, y_label);
    for (i, (_, points)) in lines.iter().enumerate() {
        let at: Vec<(f64, f64)> = points.iter().map(|p| (x.place(p.0), y.place(p.1))).collect();
        draw_line(&mut svg, i % COLOURS.len(), &at);
    }
    if lines.iter().all(|(_, points)| points.is_empty()) {
        text(&mut svg, "lb mid", (LEFT + WIDTH - RIGHT) / 2.0, (top + HEIGHT - BOTTOM) / 2.0, "no data");
    }
    svg.push_str("</svg>\n");
    svg
}

/// Averages every point with the `reach` points before and after it (fewer at the ends): a noisy loss made legible.
/// The window shrinks on both sides alike at the start, where a loss falls steeply, and on one side at the end.
pub fn smooth(points: &[(f64, f64)], reach: usize) -> Vec<(f64, f64)> {
    let sums: Vec<f64> = std::iter::once(0.0)
        .chain(points.iter().scan(0.0, |sum, p| {
            *sum += p.1;
            Some(*sum)
        }))
        .collect();
    let average = |(i, p): (usize, &(f64, f64))| {
        let reach = reach.min(i);
        let (from, to) = (i - reach, (i + reach + 1).min(points.len()));
        (p.0, (sums[to] - sums[from]) / (to - from) as f64)
    };
    points.iter().enumerate().map(average).collect()
}

/// Text made safe for XML and HTML, attributes included.
pub fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
    out
}

/// Maps values to places on the page, and knows its ticks.
struct Axis {
    low: f64,
    high: f64,
    log: bool,
    range: (f64, f64),
    ticks: Vec<(f64, String)>,
}

impl Axis {
    fn linear(values: impl Iterator<Item = f64>, range: (f64, f64)) -> Self {
        let (mut low, mut high) = bounds(values).unwrap_or((0.0, 1.0));
        if high - low <= 1e-12 * high.abs().max(low.abs()) {
            let room = if low == 0.0 { 1.0 } else { 0.1 * low.abs() };
            (low, high) = (low - room, high + room);
        }
        let target = if range.1 > range.0 { 7.0 } else { 5.0 };
        let step = round_step((high - low) / target);
        let (first, last) = ((low / step).floor(), (high / step).ceil());
        // A vertical axis ends at ticks; a horizontal one where the data end, unless a tick is near.
        let reach = if range.1 > range.0 { 0.1 * step } else { step };
        if low - first * step <= reach {
            low = first * step;
        }
        if last * step - high <= reach {
            high = last * step;
        }
        let inside = |v: &f64| *v >= low - 1e-9 * step && *v <= high + 1e-9 * step;
        let count = (last - first).round() as i64;
        let ticks = (0..=count).map(|i| (first + i as f64) * step).filter(inside);
        let ticks = ticks.map(|v| (v, number(v, step))).collect();
        Self { low, high, log: false, range, ticks }
    }

    fn logarithmic(values: impl Iterator<Item = f64>, range: (f64, f64)) -> Self {
        let (mut low, mut high) = bounds(values).unwrap_or((0.1, 1.0));
        let room = ((high / low).log10() * 0.04).max(0.02);
        (low, high) = (low * 10f64.powf(-room), high * 10f64.powf(room));
        let decades = (high / low).log10();
        let every = (decades / 8.0).ceil().max(1.0) as i32;
        let mantissas: &[f64] = match decades {
            d if d > 3.0 => &[1.0],
            d if d > 1.2 => &[1.0, 2.0, 5.0],
            d if d > 0.5 => &[1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0],
            _ => {
                return Self { low, high, log: true, range, ticks: Self::linear([low, high].into_iter(), range).ticks }
                    .within();
            }
        };
        let exponents = low.log10().floor() as i32..=high.log10().ceil() as i32;
        let ticks = exponents
            .filter(|e| e % every == 0)
            .flat_map(|e| mantissas.iter().map(move |m| m * 10f64.powi(e)))
            .map(|v| (v, number(v, 0.1 * 10f64.powf(v.log10().floor()))))
            .collect();
        Self { low, high, log: true, range, ticks }.within()
    }

    /// Drops the ticks outside the axis.
    fn within(mut self) -> Self {
        let (low, high) = (self.low, self.high);
        self.ticks.retain(|(v, _)| (low..=high).contains(v));
        self
    }

    fn place(&self, value: f64) -> f64 {
        let share = if self.log {
            (value / self.low).ln() / (self.high / self.low).ln()
        } else {
            (value - self.low) / (self.high - self.low)
        };
        self.range.0 + share * (self.range.1 - self.range.0)
    }
}

fn bounds(values: impl Iterator<Item = f64>) -> Option<(f64, f64)> {
    values.fold(None, |b, v| b.map_or(Some((v, v)), |(low, high): (f64, f64)| Some((low.min(v), high.max(v)))))
}

/// The smallest of 1, 2, 5 × 10ⁿ that is at least `step`.
fn round_step(step: f64) -> f64 {
    let power = 10f64.powf(step.log10().floor());
    let mantissa = [1.0, 2.0, 5.0, 10.0].into_iter().find(|m| m * power >= step * (1.0 - 1e-9)).unwrap_or(10.0);
    mantissa * power
}

/// A tick's number, with the digits that a distance of `step` between ticks needs.
fn number(value: f64, step: f64) -> String {
    let size = value.abs();
    if value == 0.0 || size < step * 1e-6 {
        return "0".into();
    }
    if !(1e-4..1e9).contains(&size) {
        return format!("{value:e}").split_once('e').map_or_else(String::new, |(mantissa, exponent)| {
            let mantissa: f64 = mantissa.parse().unwrap_or(1.0);
            format!("{}e{exponent}", (mantissa * 1000.0).round() / 1000.0)
        });
    }
    let decimals = (-step.log10() - 1e-9).ceil().max(0.0) as usize;
    let plain = format!("{value:.decimals$}");
    let plain = if plain.contains('.') { plain.trim_end_matches('0').trim_end_matches('.') } else { &plain };
    group_thousands(plain)
}

/// A decimal number with commas between thousands and a true minus sign.
pub fn group_thousands(plain: &str) -> String {
    let (sign, digits) = plain.split_at(usize::from(plain.starts_with('-')));
    let (whole, rest) = digits.split_at(digits.find('.').unwrap_or(digits.len()));
    let mut out = sign.replace('-', "−");
    for (i, c) in whole.chars().enumerate() {
        if i > 0 && (whole.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(c);
    }
    out + rest
}

/// Names with their colours, broken into rows that fit the width.
fn legend_rows<'a>(lines: &[(&'a str, Vec<(f64, f64)>)]) -> Vec<Vec<(usize, f64, &'a str)>> {
    let mut rows: Vec<Vec<(usize, f64, &str)>> = vec![Vec::new()];
    let mut x = LEFT;
    for (i, (name, _)) in lines.iter().enumerate() {
        let width = 34.0 + CHARACTER * name.chars().count() as f64;
        if x + width > WIDTH - RIGHT && x > LEFT {
            rows.push(Vec::new());
            x = LEFT;
        }
        if let Some(row) = rows.last_mut() {
            row.push((i % COLOURS.len(), x, name));
        }
        x += width;
    }
    rows
}

fn open(svg: &mut String, title: &str) {
    let title = escape(title);
    let _ = write!(
        svg,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" class=\"line-plot\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" \
         width=\"{WIDTH}\" height=\"{HEIGHT}\" role=\"img\" aria-label=\"{title}\">\n<title>{title}</title>\n<style>\n\
         .line-plot{{font:12px system-ui,-apple-system,'Segoe UI',Roboto,Helvetica,Arial,sans-serif}}\n\
         .line-plot .bg{{fill:#fff}}.line-plot .ti{{font-size:15px;font-weight:600;fill:#1b1f24}}\n\
         .line-plot .lb{{fill:#57606a}}.line-plot .mid{{text-anchor:middle}}.line-plot .end{{text-anchor:end}}\n\
         .line-plot .gr{{stroke:#e6e9ed}}.line-plot .ax{{stroke:#8c959f}}\n\
         .line-plot .li{{fill:none;stroke-width:1.8;stroke-linejoin:round;stroke-linecap:round}}\n"
    );
    for (i, (light, _)) in COLOURS.iter().enumerate() {
        let _ = write!(svg, ".line-plot .s{i}{{stroke:{light}}}.line-plot .d{i}{{fill:{light}}}");
    }
    svg.push_str(
        "\n@media(prefers-color-scheme:dark){.line-plot .bg{fill:#161b22}.line-plot .ti{fill:#e6edf3}\
         .line-plot .lb{fill:#9aa4af}.line-plot .gr{stroke:#2b323b}.line-plot .ax{stroke:#6e7781}",
    );
    for (i, (_, dark)) in COLOURS.iter().enumerate() {
        let _ = write!(svg, ".line-plot .s{i}{{stroke:{dark}}}.line-plot .d{i}{{fill:{dark}}}");
    }
    let _ = write!(svg, "}}\n</style>\n<rect class=\"bg\" width=\"{WIDTH}\" height=\"{HEIGHT}\" rx=\"8\"/>\n");
    let _ = writeln!(svg, "<text class=\"ti\" x=\"{LEFT}\" y=\"26\">{title}</text>");
}

fn draw_legend(svg: &mut String, rows: &[Vec<(usize, f64, &str)>]) {
    for (row, entries) in rows.iter().enumerate() {
        let y = 44.0 + 20.0 * row as f64;
        for &(colour, x, name) in entries {
            let _ = writeln!(svg, "<path class=\"li s{colour}\" stroke-width=\"3\" d=\"M{x:.1} {y}h14\"/>");
            text(svg, "lb", x + 20.0, y + 4.0, name);
        }
    }
}

fn draw_axes(svg: &mut String, x: &Axis, y: &Axis, top: f64, x_label: &str, y_label: &str) {
    let (floor, right) = (HEIGHT - BOTTOM, WIDTH - RIGHT);
    for (value, label) in &y.ticks {
        let at = y.place(*value);
        let _ = writeln!(svg, "<path class=\"gr\" d=\"M{LEFT} {at:.1}H{right}\"/>");
        text(svg, "lb end", LEFT - 8.0, at + 4.0, label);
    }
    let _ = writeln!(svg, "<path class=\"ax\" d=\"M{LEFT} {floor}H{right}\"/>");
    for (value, label) in &x.ticks {
        let at = x.place(*value);
        let _ = writeln!(svg, "<path class=\"ax\" d=\"M{at:.1} {floor}v5\"/>");
        text(svg, "lb mid", at, floor + 19.0, label);
    }
    text(svg, "lb mid", (LEFT + right) / 2.0, HEIGHT - 10.0, x_label);
    let middle = (top + floor) / 2.0;
    let label = escape(y_label);
    let _ = writeln!(svg, "<text class=\"lb mid\" transform=\"translate(16 {middle:.1}) rotate(-90)\">{label}</text>");
}

fn draw_line(svg: &mut String, colour: usize, points: &[(f64, f64)]) {
    let points = thinned(points);
    let Some(&(x, y)) = points.first() else { return };
    let _ = write!(svg, "<path class=\"li s{colour}\" d=\"M{x:.1} {y:.1}");
    for (x, y) in &points[1..] {
        let _ = write!(svg, "L{x:.1} {y:.1}");
    }
    svg.push_str("\"/>\n");
    if points.len() <= 12 {
        for (x, y) in &points {
            let _ = writeln!(svg, "<circle class=\"d{colour}\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3\"/>");
        }
    }
}

/// Keeps of each run of points within one pixel column the first, lowest, highest and last: the drawing looks
/// the same, and a curve of a million steps stays small.
fn thinned(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let mut kept = Vec::new();
    for column in points.chunk_by(|a, b| a.0.floor() == b.0.floor()) {
        if column.len() <= 4 {
            kept.extend_from_slice(column);
            continue;
        }
        let extreme =
            |sign: f64| (0..column.len()).max_by(|&a, &b| (sign * column[a].1).total_cmp(&(sign * column[b].1)));
        let mut chosen = [Some(0), extreme(1.0), extreme(-1.0), Some(column.len() - 1)];
        chosen.sort_unstable();
        let mut last = None;
        for i in chosen.into_iter().flatten().filter(|&i| last.replace(i) != Some(i)) {
            kept.push(column[i]);
        }
    }
    kept
}

fn text(svg: &mut String, class: &str, x: f64, y: f64, content: &str) {
    let content = escape(content);
    let _ = writeln!(svg, "<text class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\">{content}</text>");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(axis: &Axis) -> Vec<&str> {
        axis.ticks.iter().map(|(_, label)| label.as_str()).collect()
    }

    #[test]
    fn linear_ticks_are_round_and_cover_the_data() {
        let vertical = Axis::linear([0.13, 0.91].into_iter(), (300.0, 0.0));
        assert_eq!(labels(&vertical), ["0", "0.2", "0.4", "0.6", "0.8", "1"]);
        assert_eq!((vertical.place(0.0), vertical.place(1.0)), (300.0, 0.0));
        let horizontal = Axis::linear([0.0, 20_000.0].into_iter(), (0.0, 100.0));
        assert_eq!(labels(&horizontal), ["0", "5,000", "10,000", "15,000", "20,000"]);
        assert_eq!(horizontal.place(20_000.0), 100.0);
        let not_quite = Axis::linear([0.0, 19_999.0].into_iter(), (0.0, 100.0));
        assert_eq!(not_quite.high, 20_000.0);
        assert_eq!(Axis::linear([0.0, 18_000.0].into_iter(), (0.0, 100.0)).high, 18_000.0);
        let negative = Axis::linear([-0.02, 0.01].into_iter(), (300.0, 0.0));
        assert_eq!(labels(&negative), ["−0.02", "−0.01", "0", "0.01"]);
        assert_eq!(labels(&Axis::linear([3.0, 3.0].into_iter(), (9.0, 0.0))), ["2.6", "2.8", "3", "3.2", "3.4"]);
    }

    #[test]
    fn logarithmic_ticks_are_decades_or_round_mantissas_inside_the_axis() {
        let wide = Axis::logarithmic([1e-6, 1.0].into_iter(), (300.0, 0.0));
        assert_eq!(labels(&wide), ["1e-6", "1e-5", "0.0001", "0.001", "0.01", "0.1", "1"]);
        let narrow = Axis::logarithmic([0.03, 0.9].into_iter(), (300.0, 0.0));
        assert_eq!(labels(&narrow), ["0.05", "0.1", "0.2", "0.5", "1"]);
        assert!((narrow.place(0.3) - (narrow.place(0.03) + narrow.place(3.0)) / 2.0).abs() < 1e-9);
        let tiny = Axis::logarithmic([0.101, 0.108].into_iter(), (300.0, 0.0));
        assert!(tiny.ticks.len() >= 3, "{:?}", labels(&tiny));
    }

    #[test]
    fn points_that_cannot_be_drawn_are_left_out_and_text_is_escaped() {
        let points = [(0.0, 1.0), (1.0, f64::NAN), (2.0, -1.0), (f64::INFINITY, 1.0), (3.0, 0.1)];
        let svg = line_plot("a < b & \"c\"", "x", "y", &[("one", &points)], true);
        assert!(svg.contains("a &lt; b &amp; &quot;c&quot;") && !svg.contains("NaN") && !svg.contains("inf"));
        assert_eq!(svg.matches("<circle").count(), 2);
        assert!(line_plot("t", "x", "y", &[("none", &[])], true).contains("no data"));
    }

    #[test]
    fn thinning_keeps_ends_and_extremes() {
        let mut points: Vec<(f64, f64)> = (0..10_000).map(|i| (i as f64 / 100.0, (i % 7) as f64)).collect();
        points[4321].1 = 99.0;
        points[4322].1 = -99.0;
        let kept = thinned(&points);
        assert!(kept.len() <= 400 && kept.contains(&points[4321]) && kept.contains(&points[4322]));
        assert_eq!((kept[0], kept.last()), (points[0], points.last()));
        assert!(kept.windows(2).all(|w| w[0].0 <= w[1].0));
    }

    #[test]
    fn smoothing_keeps_a_line_straight_and_averages_noise() {
        let line: Vec<(f64, f64)> =
            (0..50).map(|i| (i as f64, 2.0 * i as f64 + if i % 2 == 0 { 1.0 } else { -1.0 })).collect();
        let smoothed = smooth(&line, 10);
        assert_eq!(smoothed.len(), 50);
        assert_eq!(smoothed[0], line[0]);
        assert!(smoothed[12..38].iter().all(|p| (p.1 - 2.0 * p.0).abs() < 0.06));
        assert!(smooth(&[], 3).is_empty());
    }
}
