//! Line plots as SVG text that stands in a page without anything from outside.
//!
//! It does not know what the lines mean.

use std::fmt::Write;

const WIDTH: f64 = 860.0;
const HEIGHT: f64 = 340.0;
const LEFT: f64 = 70.0;
const RIGHT: f64 = 16.0;
const TOP: f64 = 14.0;
const BOTTOM: f64 = 44.0;
/// Most curves that can be told apart.
pub(crate) const COLOURS: usize = 8;

/// A curve.
pub(crate) struct Curve {
    pub(crate) name: String,
    /// From left to right; y above 0.
    pub(crate) points: Vec<(f64, f64)>,
}

/// What stands below the plot.
pub(crate) struct Across<'a> {
    pub(crate) title: &'a str,
    /// Places and what is written there.
    pub(crate) ticks: Vec<(f64, String)>,
    pub(crate) end: f64,
}

/// Curves over `across`, their y on a logarithmic scale of microseconds.
pub(crate) fn svg(across: &Across<'_>, curves: &[Curve]) -> String {
    let (low, high) = decades(curves);
    let x = |value: f64| LEFT + value / across.end.max(1e-9) * (WIDTH - LEFT - RIGHT);
    let y = |value: f64| {
        let share = (value.max(1e-9).log10() - low) / (high - low);
        HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM)
    };
    let mut svg = format!("<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\">");
    let floor = HEIGHT - BOTTOM;
    for decade in low as i32..=high as i32 {
        let at = y(10_f64.powi(decade));
        line(&mut svg, (LEFT, at), (WIDTH - RIGHT, at));
        text(&mut svg, (LEFT - 8.0, at + 4.0), "end", &power(decade));
    }
    for (value, label) in &across.ticks {
        line(&mut svg, (x(*value), TOP), (x(*value), floor));
        text(&mut svg, (x(*value), floor + 18.0), "middle", label);
    }
    text(&mut svg, (LEFT + (WIDTH - LEFT - RIGHT) / 2.0, HEIGHT - 6.0), "middle", across.title);
    for (number, curve) in curves.iter().enumerate() {
        let points: Vec<String> =
            curve.points.iter().map(|(px, py)| format!("{:.1},{:.1}", x(*px), y(*py))).collect();
        let _ = write!(
            svg,
            "<polyline class=\"c{}\" points=\"{}\"><title>{}</title></polyline>",
            number % COLOURS,
            points.join(" "),
            escaped(&curve.name)
        );
    }
    svg.push_str("</svg>");
    svg.push_str(&legend(curves));
    svg
}

fn legend(curves: &[Curve]) -> String {
    let mut legend = "<p class=\"legend\">".to_owned();
    for (number, curve) in curves.iter().enumerate() {
        let (colour, name) = (number % COLOURS, escaped(&curve.name));
        let _ = write!(legend, "<span><i class=\"c{colour}\"></i>{name}</span>");
    }
    legend + "</p>"
}

/// The powers of ten between which all values lie.
fn decades(curves: &[Curve]) -> (f64, f64) {
    let values = || curves.iter().flat_map(|curve| &curve.points).map(|(_, y)| y.max(1e-3));
    let least = values().fold(f64::INFINITY, f64::min);
    let most = values().fold(0.0, f64::max);
    if most == 0.0 {
        return (0.0, 1.0);
    }
    let low = least.log10().floor();
    (low, most.log10().ceil().max(low + 1.0))
}

fn power(decade: i32) -> String {
    match decade {
        ..=-1 => format!("{} ns", 10_i64.pow((decade + 3).max(0) as u32)),
        0..=2 => format!("{} µs", 10_i64.pow(decade as u32)),
        3..=5 => format!("{} ms", 10_i64.pow(decade as u32 - 3)),
        6.. => format!("{} s", 10_i64.pow(decade as u32 - 6)),
    }
}

fn line(svg: &mut String, (x1, y1): (f64, f64), (x2, y2): (f64, f64)) {
    let _ = write!(svg, "<line x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\"/>");
}

fn text(svg: &mut String, (x, y): (f64, f64), anchor: &str, text: &str) {
    let text = escaped(text);
    let _ = write!(svg, "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{text}</text>");
}

/// Text that HTML does not mistake for its own.
pub(crate) fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn curves_lie_within_their_frame() {
        let points = vec![(0.0, 20.0), (1.0, 300.0), (2.0, 90_000.0)];
        let curve = Curve { name: "a <b>".to_owned(), points };
        let across = Across { title: "t", ticks: vec![(1.0, "one".to_owned())], end: 2.0 };
        let svg = svg(&across, &[curve]);
        let points = svg.split("points=\"").nth(1).unwrap().split('"').next().unwrap();
        for point in points.split(' ') {
            let (x, y) = point.split_once(',').unwrap();
            let (x, y): (f64, f64) = (x.parse().unwrap(), y.parse().unwrap());
            assert!((LEFT..=WIDTH - RIGHT).contains(&x), "{point}");
            assert!((TOP..=HEIGHT - BOTTOM).contains(&y), "{point}");
        }
        for label in ["10 µs", "100 ms", "one", "a &lt;b&gt;"] {
            assert!(svg.contains(label), "{label}");
        }
        assert!(!svg.contains("a <b>"));
    }
}
