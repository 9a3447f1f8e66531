//! An explanation for people. It reads the JSON that the domain makes, whether it comes from here or from a gateway.

use serde_json::Value;

use super::Failure;
use super::output::{printable, put, short_moment, text};

/// Longest line, in characters.
const WIDTH: usize = 112;
/// Width of the words before a fact.
const LABEL: usize = 10;

/// Prints an explanation.
pub(super) fn put_explanation(explanation: &Value) -> Result<(), Failure> {
    put(written(explanation).as_bytes())
}

fn written(explanation: &Value) -> String {
    let mut page = Page(String::new());
    page.headline(explanation);
    page.facts(explanation);
    page.findings(explanation);
    page.rest(explanation);
    page.0
}

struct Page(String);

fn list<'v>(value: &'v Value, name: &str) -> &'v [Value] {
    value.get(name).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

impl Page {
    fn line(&mut self, line: &str) {
        self.0.push_str(line.trim_end());
        self.0.push('\n');
    }

    /// A text in a column `margin` wide, behind `lead`.
    fn column(&mut self, lead: &str, margin: usize, text: &str) {
        let mut line = format!("{lead:<margin$}");
        if lead.chars().count() >= margin {
            self.line(lead);
            line = " ".repeat(margin);
        }
        for word in text.split(' ') {
            let used = line.chars().count();
            if used > margin && used + word.chars().count() > WIDTH {
                self.line(&line);
                line = " ".repeat(margin);
            }
            line.extend([word, " "]);
        }
        self.line(&line);
    }

    fn fact(&mut self, label: &str, text: &str) {
        if !text.is_empty() {
            self.column(&format!("  {label}"), LABEL + 2, text);
        }
    }

    fn headline(&mut self, explanation: &Value) {
        let cell = |name| text(explanation, name);
        let what = match cell("verdict").as_str() {
            "refuse" => format!("Refused: {}", cell("reason")),
            "accept" => "Accepted now".to_owned(),
            "filtered" => "Accepted now, and not delivered: the route does not want events of its type".to_owned(),
            "handshake" => "Answered now: the provider's handshake".to_owned(),
            other => other.to_owned(),
        };
        self.line(&format!("{what}   route {}   {}", cell("route"), short_moment(&cell("now"))));
    }

    fn facts(&mut self, explanation: &Value) {
        let request = explanation.get("request").unwrap_or(&Value::Null);
        self.fact("id", &text(explanation, "request_id"));
        self.fact("request", format!("{} {}", text(request, "method"), text(request, "url")).trim());
        for proof in list(request, "proofs") {
            self.fact("proof", &printable(proof.as_str().unwrap_or_default()));
        }
        let kind = Some(text(request, "content_type")).filter(|kind| !kind.is_empty());
        let kind = kind.map_or_else(String::new, |kind| format!(", {kind}"));
        if request.get("body_sha256") == Some(&Value::Null) {
            let length = text(request, "body_bytes");
            self.fact("body", &format!("{length} bytes, too long to be kept: what depends on it was not tried"));
        } else {
            self.fact(
                "body",
                &format!("{} bytes, sha256 {}{kind}", text(request, "body_bytes"), text(request, "body_sha256")),
            );
        }
        if text(explanation, "verdict") == "accept" {
            let position = text(explanation, "secret");
            let secrets = list(explanation, "secrets").iter();
            let origin =
                secrets.filter(|secret| text(secret, "position") == position).map(|secret| text(secret, "origin"));
            self.fact("secret", &format!("{position} ({})", origin.collect::<String>()));
            self.fact("event", &text(explanation, "event_type"));
            self.fact("key", &text(explanation, "key"));
            return;
        }
        let secret = |secret: &Value| {
            let ended = Some(text(secret, "expired")).filter(|ended| !ended.is_empty());
            let ended = ended.map_or_else(String::new, |at| format!(" (ended {})", short_moment(&at)));
            format!("{} {}{ended}", text(secret, "position"), text(secret, "origin"))
        };
        self.fact("secrets", &list(explanation, "secrets").iter().map(secret).collect::<Vec<_>>().join(", "));
    }

    fn findings(&mut self, explanation: &Value) {
        for (matches, title, mark) in
            [("fits", "What would have matched:", "✔"), ("seen", "Worth a look, proves nothing:", "?")]
        {
            let found: Vec<&Value> =
                list(explanation, "findings").iter().filter(|finding| text(finding, "matches") == matches).collect();
            if found.is_empty() {
                continue;
            }
            self.line(&format!("  {title}"));
            for finding in found {
                self.column(&format!("    {mark} {}", text(finding, "id")), 30, &text(finding, "found"));
                let fix = format!("{} ({})", text(finding, "fix"), text(finding, "whose"));
                self.column(&format!("{:24}fix", ""), 30, &fix);
            }
        }
    }

    fn rest(&mut self, explanation: &Value) {
        let tried = list(explanation, "tried");
        let with = |result: &str| -> Vec<String> {
            tried.iter().filter(|tried| text(tried, "result") == result).map(|tried| text(tried, "id")).collect()
        };
        let no = with("no");
        if no.is_empty() {
            return;
        }
        if with("fits").is_empty() {
            self.line("  Nothing that was tried would have matched.");
            self.fact("not it", &no.join(", "));
        } else {
            self.fact("not it", &format!("what else was tried ({})", no.len()));
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_explanation_is_one_page() {
        let page = written(&json!({
            "verdict": "refuse", "reason": "signature_mismatch", "route": "veedeo", "now": "2026-01-31T12:00:00.000Z",
            "request": {"method": "POST", "url": "http://h/x", "proofs": ["x-sig: <64 hex>"], "body_bytes": 3,
                        "body_sha256": "ab", "content_type": "application/json"},
            "secrets": [{"position": 0, "origin": "env:A", "expired": null}],
            "findings": [{"id": "secret-whitespace", "matches": "fits", "found": "it\u{1b} fits", "fix": "trim it", "whose": "operator"}],
            "tried": [{"id": "secret-hex", "result": "no"}, {"id": "secret-whitespace", "result": "fits"}],
        }));
        assert_eq!(
            page,
            "Refused: signature_mismatch   route veedeo   2026-01-31T12:00:00Z\n  request   POST http://h/x\n  \
             proof     x-sig: <64 hex>\n  body      3 bytes, sha256 ab, application/json\n  secrets   0 env:A\n  \
             What would have matched:\n    ✔ secret-whitespace       it\u{fffd} fits\n                        \
             fix   trim it (operator)\n  not it    what else was tried (1)\n"
        );
    }
}
