//! Prometheus text as a scraper reads it. Only what these tests need: names, labels, values.

use std::collections::BTreeMap;

/// One series.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Series {
    /// The metric's name, with `_bucket`, `_sum` or `_count` where it has one.
    pub(crate) name: String,
    /// Its labels.
    pub(crate) labels: BTreeMap<String, String>,
    /// Its value.
    pub(crate) value: f64,
}

/// Everything one scrape brought.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Scrape(Vec<Series>);

impl Scrape {
    /// Reads it; anything that is not the text format is a failure.
    pub(crate) fn parse(text: &str) -> Self {
        let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
        Self(lines.map(|line| series(line).unwrap_or_else(|| panic!("not a metric: {line}"))).collect())
    }

    /// The sum of all series of this name that carry these labels; `None` if there is none.
    pub(crate) fn find(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let has = |series: &&Series| labels.iter().all(|(k, v)| series.labels.get(*k).is_some_and(|found| found == v));
        let values: Vec<f64> = self.0.iter().filter(|s| s.name == name).filter(has).map(|s| s.value).collect();
        (!values.is_empty()).then(|| values.iter().sum())
    }

    /// The same, as the whole number it has to be; a series that is not there fails the test.
    pub(crate) fn count(&self, name: &str, labels: &[(&str, &str)]) -> u64 {
        let value = self.find(name, labels).unwrap_or_else(|| panic!("no series {name} with {labels:?}"));
        assert!(value >= 0.0 && value.fract() == 0.0, "{name} {labels:?} is {value}");
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked above; no count is 2^53")]
        let count = value as u64;
        count
    }

    /// All series.
    pub(crate) fn series(&self) -> &[Series] {
        &self.0
    }
}

fn series(line: &str) -> Option<Series> {
    let (name, rest) = line.split_at(line.find(['{', ' '])?);
    let (labels, rest) = match rest.strip_prefix('{') {
        Some(inner) => labels(inner)?,
        None => (BTreeMap::new(), rest),
    };
    let value = rest.split_whitespace().next()?;
    let value = value.replace("Inf", "inf").parse().ok()?;
    Some(Series { name: name.into(), labels, value })
}

fn labels(mut rest: &str) -> Option<(BTreeMap<String, String>, &str)> {
    let mut labels = BTreeMap::new();
    loop {
        rest = rest.trim_start_matches(',');
        if let Some(end) = rest.strip_prefix('}') {
            return Some((labels, end));
        }
        let (name, value) = rest.split_once("=\"")?;
        let mut text = String::new();
        let mut chars = value.char_indices();
        rest = loop {
            match chars.next()? {
                (at, '"') => break &value[at + 1..],
                (_, '\\') => text.push(match chars.next()?.1 {
                    'n' => '\n',
                    other => other,
                }),
                (_, plain) => text.push(plain),
            }
        };
        labels.insert(name.trim().to_owned(), text);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "# HELP hits Hits.\n# TYPE hits counter\nhits{route=\"a\",how=\"x\\\"y\"} 2\nhits{route=\"b\",how=\"\"} 3\n\
                        up 1\nlast_bucket{le=\"+Inf\"} 4 1700000000\n";

    #[test]
    fn series_are_found_by_name_and_labels_and_summed() {
        let scrape = Scrape::parse(TEXT);
        assert_eq!(scrape.count("hits", &[]), 5);
        assert_eq!(scrape.count("hits", &[("route", "a"), ("how", "x\"y")]), 2);
        assert_eq!(scrape.count("up", &[]), 1);
        assert_eq!(scrape.count("last_bucket", &[("le", "+Inf")]), 4);
        assert_eq!(scrape.find("hits", &[("route", "c")]), None);
        assert_eq!(scrape.series().len(), 4);
    }

    #[test]
    #[should_panic(expected = "not a metric: hits{")]
    fn what_is_not_the_text_format_is_noticed() {
        Scrape::parse("hits{ 2");
    }
}
