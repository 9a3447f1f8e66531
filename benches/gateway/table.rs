//! The tables: medians, and ratios of figures of the same round.

use std::fmt::Write as _;
use std::path::Path;

use super::options::{Options, Scene};
use super::rounds::{Figures, Row};

const BEGIN: &str = "<!-- figures: begin -->";
const END: &str = "<!-- figures: end -->";

pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

pub(crate) fn table(scene: &Scene, rows: &[Row]) -> String {
    let mut text = format!(
        "**{}, {} connection{}, {}**\n\n",
        size(scene.bytes),
        scene.connections,
        if scene.connections == 1 { "" } else { "s" },
        if scene.keep_alive { "kept open" } else { "a new one for each request" }
    );
    let of = |name: &str| rows.iter().find(|row| row.name == name);
    let (nginx, lua, usual) = (of("nginx"), of("lua"), of("luaossl"));
    let beside_lua = if usual.is_some() { "× Lua, luaossl" } else { "× Lua" };
    let _written = writeln!(
        text,
        "| what | requests/s | × nginx | {beside_lua} | CPU µs | {beside_lua} | p50 µs | p99 µs | {beside_lua} | p99.9 µs | RSS MiB | failed |"
    );
    text.push_str("|---|---|---|---|---|---|---|---|---|---|---|---|\n");
    for row in rows {
        let middle = |figure: fn(&Figures) -> f64| median(row.figures.iter().map(figure).collect());
        let to = |base: Option<&Row>, figure: fn(&Figures) -> f64| match base {
            Some(base) => {
                let pairs = row.figures.iter().zip(&base.figures);
                format!("{:.2}", median(pairs.map(|(mine, its)| figure(mine) / figure(its)).collect()))
            }
            None => String::new(),
        };
        let to_both = |figure: fn(&Figures) -> f64| match usual {
            Some(_) => format!("{}, {}", to(lua, figure), to(usual, figure)),
            None => to(lua, figure),
        };
        let beside = middle(|f| f.beside);
        let beside = if beside > 0.0 { format!(" (Redis {beside:.1})") } else { String::new() };
        let name = row.name.split_once('@').map(|(_, name)| format!(" @{name}")).unwrap_or_default();
        let _written = writeln!(
            text,
            "| {}{name} | {:.0} | {} | {} | {:.1}{beside} | {} | {:.0} | {:.0} | {} | {:.0} | {:.0} | {} |",
            row.words,
            middle(|f| f.rate),
            to(nginx, |f| f.rate),
            to_both(|f| f.rate),
            middle(|f| f.cpu),
            to_both(|f| f.cpu),
            middle(|f| f.p50),
            middle(|f| f.p99),
            to_both(|f| f.p99),
            middle(|f| f.p999),
            middle(|f| f.rss),
            row.figures.iter().map(|f| f.failed).sum::<u64>()
        );
    }
    text
}

fn size(bytes: usize) -> String {
    if bytes.is_multiple_of(1024) { format!("{} KiB", bytes / 1024) } else { format!("{bytes} bytes") }
}

/// A line on how the figures came about.
pub(crate) fn circumstances(options: &Options) -> String {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    format!(
        "{cores} cores, {} worker(s) each, medians of {} rounds of {} s; log level of the gateway: {}.",
        options.threads,
        options.rounds,
        options.length.as_secs_f64(),
        options.log
    )
}

/// Writes the block between the marks anew.
pub(crate) fn write_into(page: &Path, text: &str) {
    let old = std::fs::read_to_string(page).expect("the page");
    let (before, rest) = old.split_once(BEGIN).expect("a page with a place for figures");
    let (_, after) = rest.split_once(END).expect("an end of that place");
    std::fs::write(page, format!("{before}{BEGIN}\n{text}{END}{after}")).expect("the page is written");
}
