//! What the senders report: the twelve events that `Veedeo` and `VideoPilot` document, as fixtures, and events made up
//! from them. The documented moments are long past, so a fresh event carries the present one in its place.

use std::path::Path;
use std::sync::OnceLock;

use super::clock::rfc3339;
use super::sign::Provider;

/// One documented event.
#[derive(Clone, Debug)]
pub(crate) struct Documented {
    /// Who sends it.
    pub(crate) provider: Provider,
    /// Its type.
    pub(crate) event_type: String,
    /// Its body as the document prints it.
    pub(crate) text: String,
}

/// Their names, in the order of the alphabet.
pub(crate) const NAMES: [&str; 12] = [
    "veedeo-task.canceled",
    "veedeo-task.completed",
    "veedeo-task.failed",
    "veedeo-task.progress",
    "veedeo-task.queued",
    "veedeo-task.started",
    "videopilot-render.completed",
    "videopilot-render.failed",
    "videopilot-render.started",
    "videopilot-video.generation_failed",
    "videopilot-video.media_ready",
    "videopilot-video.script_ready",
];

/// All twelve.
pub(crate) fn documented() -> Vec<Documented> {
    NAMES.into_iter().map(read).collect()
}

fn read(name: &str) -> Documented {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/events").join(format!("{name}.json"));
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let (provider, event_type) = name.split_once('-').expect("PROVIDER-TYPE.json");
    let provider = Provider::ALL.into_iter().find(|p| p.name() == provider).expect("a provider of these tests");
    Documented { provider, event_type: event_type.into(), text }
}

impl Documented {
    /// The body as the sender's JSON library would write it, happening now.
    pub(crate) fn fresh(&self) -> Vec<u8> {
        let start = "\"timestamp\": \"";
        let from = self.text.find(start).expect("a timestamp") + start.len();
        let to = from + self.text[from..].find('"').expect("the end of the timestamp");
        let now = rfc3339(0);
        let now = if self.text[from..to].contains(".000") { now.replace('Z', ".000Z") } else { now };
        compact(&format!("{}{now}{}", &self.text[..from], &self.text[to..]))
    }

    /// The same, but happening when the document says.
    pub(crate) fn as_documented(&self) -> Vec<u8> {
        compact(&self.text)
    }
}

fn compact(text: &str) -> Vec<u8> {
    let (mut quoted, mut escaped) = (false, false);
    let kept = text.bytes().filter(|byte| {
        let keep = quoted || !byte.is_ascii_whitespace();
        quoted ^= *byte == b'"' && !escaped;
        escaped = quoted && *byte == b'\\' && !escaped;
        keep
    });
    kept.collect()
}

/// A Veedeo event of its own: the only one with this task, and the same whenever it is asked for.
pub(crate) fn task(id: impl std::fmt::Display) -> Vec<u8> {
    static MOMENT: OnceLock<String> = OnceLock::new();
    task_at(id, MOMENT.get_or_init(|| rfc3339(0)), "task.completed")
}

/// A Veedeo event of this task, type and moment.
pub(crate) fn task_at(id: impl std::fmt::Display, moment: &str, event_type: &str) -> Vec<u8> {
    format!(r#"{{"event":"{event_type}","timestamp":"{moment}","task_id":"tsk_{id}","data":{{"percentage":45}}}}"#)
        .into()
}

/// The same event as [`task`] makes, but longer by `filler` bytes that cannot be compressed and follow from its task.
pub(crate) fn wide_task(id: impl std::fmt::Display, filler: usize) -> Vec<u8> {
    let body = task(&id);
    if filler == 0 {
        return body;
    }
    let seed = id.to_string().bytes().fold(1, |seed: u64, byte| seed.wrapping_mul(31).wrapping_add(u64::from(byte)));
    let mut chance = fastrand::Rng::with_seed(seed);
    let filler: String = (0..filler).map(|_| chance.alphanumeric()).collect();
    let text = String::from_utf8(body).expect("JSON is text");
    text.replace("\"percentage\":45", &format!("\"percentage\":\"{filler}\"")).into_bytes()
}

/// The task of a body made by [`task`].
pub(crate) fn task_of(body: &[u8]) -> String {
    let body: serde_json::Value = serde_json::from_slice(body).expect("a body made by these tests");
    body["task_id"].as_str().expect("a task").trim_start_matches("tsk_").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_twelve_documented_events_are_all_there_and_nothing_else() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/events");
        let mut files: Vec<String> =
            std::fs::read_dir(folder).unwrap().map(|file| file.unwrap().file_name().into_string().unwrap()).collect();
        files.sort();
        assert_eq!(files, NAMES.map(|name| format!("{name}.json")));
        for event in documented() {
            let body: serde_json::Value = serde_json::from_str(&event.text).unwrap();
            assert_eq!(body["event"], *event.event_type);
        }
    }

    #[test]
    fn a_fresh_event_differs_in_its_moment_alone() {
        for event in documented() {
            let [mut fresh, mut old]: [serde_json::Value; 2] =
                [event.fresh(), event.as_documented()].map(|body| serde_json::from_slice(&body).unwrap());
            assert_ne!(fresh, old);
            for body in [&mut fresh, &mut old] {
                body["timestamp"] = "".into();
            }
            assert_eq!(fresh, old);
        }
    }

    #[test]
    fn compact_leaves_texts_alone() {
        assert_eq!(compact(r#"{ "a" : "b \" c", "d\\" : [ 1 , 2 ] }"#), br#"{"a":"b \" c","d\\":[1,2]}"#);
    }

    #[test]
    fn a_task_can_be_told_from_its_body() {
        assert_eq!(task_of(&task("7-x")), "7-x");
        assert_eq!(task_of(&wide_task("7-x", 1000)), "7-x");
        assert_eq!(wide_task("7-x", 1000).len(), task("7-x").len() + 1000);
        assert_eq!((wide_task("a", 9) == wide_task("a", 9), wide_task("a", 0) == task("a")), (true, true));
    }
}
