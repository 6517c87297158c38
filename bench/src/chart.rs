//! Bar charts as SVG, readable on light and on dark pages: horizontal bars on a
//! logarithmic scale, since what is compared differs by orders of magnitude.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};

use crate::figure::float;
use crate::report::{METRICS, Metric, label};
use crate::results::Results;

const WIDTH: f64 = 960.0;
/// Where the bars begin: the names of the scenarios stand before.
const LEFT: f64 = 290.0;
/// Room after the longest bar for its number.
const RIGHT: f64 = 70.0;
const TOP: f64 = 70.0;
const BAR: f64 = 13.0;
const GAP: f64 = 12.0;

/// One a server, told apart on white and on black, and by those who see few colors.
const COLORS: [&str; 4] = ["#1b9e77", "#d95f02", "#7570b3", "#c9a000"];

const STYLE: &str = "<style>text{font:12px system-ui,sans-serif;fill:#24292f}\
    .title{font-size:16px;font-weight:600}.grid{stroke:#8c959f;stroke-opacity:.4}\
    @media(prefers-color-scheme:dark){text{fill:#e6edf3}}</style>";

/// One group of bars.
struct Group<'a> {
    scenario: &'a str,
    values: Vec<Option<f64>>,
}

/// The scale of a chart: whole powers of ten.
struct Scale {
    lowest: f64,
    highest: f64,
}

impl Scale {
    fn of(groups: &[Group<'_>]) -> Self {
        let values = || {
            let all = groups.iter().flat_map(|group| &group.values);
            all.copied().flatten().filter(|value| *value > 0.0)
        };
        let lowest = values().fold(f64::INFINITY, f64::min).log10().floor();
        let highest = values().fold(0.0, f64::max).log10().ceil();
        Self {
            lowest,
            // One value that is a power of ten would else have no width at all.
            highest: highest.max(lowest + 1.0),
        }
    }

    fn x(&self, value: f64) -> f64 {
        let share = (value.log10() - self.lowest) / (self.highest - self.lowest);
        LEFT + share.max(0.0) * (WIDTH - LEFT - RIGHT)
    }
}

/// Draws every metric that was measured into a file of `dir`.
pub fn write_all(results: &Results, dir: &Path) -> Result<()> {
    fs::create_dir_all(dir).with_context(|| format!("create {}", dir.display()))?;
    for metric in &METRICS {
        if let Some(svg) = draw(results, metric) {
            let file = dir.join(metric.file);
            fs::write(&file, svg).with_context(|| format!("write {}", file.display()))?;
        }
    }
    Ok(())
}

fn draw(results: &Results, metric: &Metric) -> Option<String> {
    let servers = results.servers();
    let values = |scenario| {
        let mean = |server: &&str| results.mean(server, scenario, metric.pick);
        servers.iter().map(mean).collect::<Vec<_>>()
    };
    let groups: Vec<Group<'_>> = results
        .scenarios()
        .into_iter()
        .map(|scenario| Group {
            scenario,
            values: values(scenario),
        })
        .filter(|group| group.values.iter().flatten().any(|value| *value > 0.0))
        .collect();
    if groups.is_empty() {
        return None;
    }
    let scale = Scale::of(&groups);
    let group_height = float(servers.len()) * BAR + GAP;
    let bottom = TOP + float(groups.len()) * group_height;
    let height = bottom + 30.0;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" \
         width=\"{WIDTH}\" height=\"{height}\" role=\"img\">\n<title>{0}</title>\n{STYLE}\n\
         <text class=\"title\" x=\"10\" y=\"24\">{0} ({1} is better; logarithmic)</text>\n",
        escape(metric.title),
        if metric.more_is_better {
            "more"
        } else {
            "less"
        },
    );
    legend(&mut svg, &servers);
    grid(&mut svg, &scale, bottom);
    for (index, group) in groups.iter().enumerate() {
        bars(&mut svg, &scale, group, TOP + float(index) * group_height);
    }
    svg.push_str("</svg>\n");
    Some(svg)
}

fn legend(svg: &mut String, servers: &[&str]) {
    for (index, (server, color)) in servers.iter().zip(COLORS).enumerate() {
        let x = 10.0 + float(index) * 170.0;
        let _ = writeln!(
            svg,
            "<rect x=\"{x}\" y=\"38\" width=\"12\" height=\"12\" fill=\"{color}\"/>\
             <text x=\"{}\" y=\"48\">{}</text>",
            x + 18.0,
            escape(label(server))
        );
    }
}

fn grid(svg: &mut String, scale: &Scale, bottom: f64) {
    let mut power = scale.lowest;
    while power <= scale.highest {
        let value = 10_f64.powf(power);
        let x = scale.x(value);
        let _ = writeln!(
            svg,
            "<line class=\"grid\" x1=\"{x:.1}\" y1=\"{TOP}\" x2=\"{x:.1}\" y2=\"{bottom}\"/>\
             <text x=\"{x:.1}\" y=\"{}\" text-anchor=\"middle\">{}</text>",
            bottom + 18.0,
            short(value)
        );
        power += 1.0;
    }
}

fn bars(svg: &mut String, scale: &Scale, group: &Group<'_>, top: f64) {
    let middle = top + float(group.values.len()) * BAR / 2.0 + 4.0;
    let _ = writeln!(
        svg,
        "<text x=\"{}\" y=\"{middle}\" text-anchor=\"end\">{}</text>",
        LEFT - 8.0,
        escape(group.scenario)
    );
    for (index, (value, color)) in group.values.iter().zip(COLORS).enumerate() {
        let y = top + float(index) * BAR;
        if let Some(value) = value.filter(|value| *value > 0.0) {
            // The least value would else have no bar.
            let width = (scale.x(value) - LEFT).max(2.0);
            let _ = writeln!(
                svg,
                "<rect x=\"{LEFT}\" y=\"{y}\" width=\"{width:.1}\" height=\"{}\" \
                 fill=\"{color}\"/><text x=\"{:.1}\" y=\"{}\">{}</text>",
                BAR - 2.0,
                LEFT + width + 5.0,
                y + BAR - 3.0,
                short(value)
            );
        }
    }
}

/// A number in few letters: 0.25, 12, 1.2k, 250k, 1.5M.
fn short(value: f64) -> String {
    let (value, unit) = match value {
        _ if value >= 999_500.0 => (value / 1e6, "M"),
        _ if value >= 999.5 => (value / 1e3, "k"),
        _ => (value, ""),
    };
    let text = match value {
        _ if value >= 9.95 => format!("{value:.0}"),
        _ if value >= 0.995 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    };
    let text = match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.'),
        false => &text,
    };
    format!("{text}{unit}")
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::figure::Figure;

    #[test]
    fn a_chart_has_a_bar_for_every_number_and_longer_ones_for_more() {
        let mut results = Results::default();
        for (name, cpu) in [("ours#1", 50.0), ("crd#1", 5_000.0)] {
            let figure = Figure {
                scenario: "get <1>".to_owned(),
                operations: 1,
                per_second: Some(1.0),
                server_cpu_us: Some(cpu),
                ..Figure::default()
            };
            results.add(name, vec![figure]);
        }
        let svg = draw(&results, &METRICS[0]).unwrap();
        assert!(svg.contains("get &lt;1>"), "{svg}");
        let widths: Vec<f64> = svg
            .split("<rect ")
            .filter(|rect| rect.contains(&format!("x=\"{LEFT}\"")))
            .filter_map(|rect| {
                rect.split("width=\"")
                    .nth(1)?
                    .split('"')
                    .next()?
                    .parse()
                    .ok()
            })
            .collect();
        assert_eq!(widths.len(), 2, "{svg}");
        assert!(widths[0] < widths[1], "{widths:?}");
        assert!(draw(&results, &METRICS[3]).is_none(), "nothing measured");
    }

    #[test]
    fn numbers_are_short() {
        let shown = [0.25, 1.0, 12.4, 250.0, 1_200.0, 250_000.0, 1_500_000.0].map(short);
        assert_eq!(shown, ["0.25", "1", "12", "250", "1.2k", "250k", "1.5M"]);
    }
}
