//! One picture: bits per weight against divergence, for a set of files. Plain SVG, no library.

const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 420.0;
const MARGIN: f64 = 56.0;

/// The picture of points (name, bits per weight, mean divergence), the divergence on a logarithmic axis.
pub(super) fn svg(points: &[(&str, f64, f64)]) -> String {
    let logarithm = |kl: f64| kl.max(1e-9).log10();
    let bounds = |values: &mut dyn Iterator<Item = f64>| {
        let (low, high) = values.fold((f64::MAX, f64::MIN), |(low, high), x| (low.min(x), high.max(x)));
        (low.floor(), high.ceil().max(low.floor() + 1.0))
    };
    let (left, right) = bounds(&mut points.iter().map(|point| point.1));
    let (bottom, top) = bounds(&mut points.iter().map(|point| logarithm(point.2)));
    let x = |bits: f64| MARGIN + (bits - left) / (right - left) * (WIDTH - 2.0 * MARGIN);
    let y = |log: f64| HEIGHT - MARGIN - (log - bottom) / (top - bottom) * (HEIGHT - 2.0 * MARGIN);
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" \
         font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
    );
    for bits in left as i64..=right as i64 {
        let x = x(bits as f64);
        out += &line((x, MARGIN), (x, HEIGHT - MARGIN));
        out += &label((x, HEIGHT - MARGIN + 18.0), "middle", &bits.to_string());
    }
    for power in bottom as i64..=top as i64 {
        let y = y(power as f64);
        out += &line((MARGIN, y), (WIDTH - MARGIN, y));
        out += &label((MARGIN - 6.0, y + 4.0), "end", &format!("1e{power}"));
    }
    for (name, bits, kl) in points {
        let (x, y) = (x(*bits), y(logarithm(*kl)));
        out += &format!("<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"4\" fill=\"#1f6f8b\"/>\n");
        out += &label((x + 7.0, y - 5.0), "start", &escaped(name));
    }
    out += &label((WIDTH / 2.0, HEIGHT - 12.0), "middle", "bits per weight");
    // From below to above at the left edge.
    out += &format!("<g transform=\"translate(16 {}) rotate(-90)\">\n", HEIGHT / 2.0);
    out += &label((0.0, 0.0), "middle", "mean KL divergence, nats");
    out + "</g>\n</svg>\n"
}

type Point = (f64, f64);

/// A line of the grid.
fn line((x1, y1): Point, (x2, y2): Point) -> String {
    format!("<line x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\" stroke=\"#ddd\"/>\n")
}

/// Text of which `anchor` (start, middle or end) is at a point.
fn label((x, y): Point, anchor: &str, text: &str) -> String {
    format!("<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{text}</text>\n")
}

fn escaped(name: &str) -> String {
    let name = name.rsplit('/').next().unwrap_or(name);
    name.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_point_is_in_the_picture() {
        let drawn = svg(&[("a/<b>.gguf", 2.5, 0.1), ("c", 8.5, 0.0), ("d", 4.5, 0.003)]);
        assert_eq!(drawn.matches("<circle").count(), 3);
        assert!(drawn.contains("&lt;b&gt;.gguf") && drawn.ends_with("</svg>\n"));
        assert!(!drawn.contains("NaN") && !drawn.contains("inf"));
    }
}
