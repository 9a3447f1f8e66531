//! Sample events: bodies from the providers' documents, embedded, and made fresh before they are sent. They are for
//! trying things out; nothing of the gateway depends on them.

use crate::domain::time::Timestamp;

/// A sample event of a provider.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sample {
    pub(super) provider: &'static str,
    pub(super) event: &'static str,
    body: &'static str,
}

/// All of them. The first of a provider is its usual one.
const SAMPLES: &[Sample] = &[
    Sample {
        provider: "veedeo",
        event: "task.completed",
        body: include_str!("../../config/samples/veedeo/task.completed.json"),
    },
    Sample {
        provider: "veedeo",
        event: "task.queued",
        body: include_str!("../../config/samples/veedeo/task.queued.json"),
    },
    Sample {
        provider: "veedeo",
        event: "task.started",
        body: include_str!("../../config/samples/veedeo/task.started.json"),
    },
    Sample {
        provider: "veedeo",
        event: "task.progress",
        body: include_str!("../../config/samples/veedeo/task.progress.json"),
    },
    Sample {
        provider: "veedeo",
        event: "task.failed",
        body: include_str!("../../config/samples/veedeo/task.failed.json"),
    },
    Sample {
        provider: "veedeo",
        event: "task.canceled",
        body: include_str!("../../config/samples/veedeo/task.canceled.json"),
    },
    Sample {
        provider: "videopilot",
        event: "render.completed",
        body: include_str!("../../config/samples/videopilot/render.completed.json"),
    },
    Sample {
        provider: "videopilot",
        event: "render.started",
        body: include_str!("../../config/samples/videopilot/render.started.json"),
    },
    Sample {
        provider: "videopilot",
        event: "render.failed",
        body: include_str!("../../config/samples/videopilot/render.failed.json"),
    },
    Sample {
        provider: "videopilot",
        event: "video.script_ready",
        body: include_str!("../../config/samples/videopilot/video.script_ready.json"),
    },
    Sample {
        provider: "videopilot",
        event: "video.media_ready",
        body: include_str!("../../config/samples/videopilot/video.media_ready.json"),
    },
    Sample {
        provider: "videopilot",
        event: "video.generation_failed",
        body: include_str!("../../config/samples/videopilot/video.generation_failed.json"),
    },
    Sample { provider: "github", event: "push", body: include_str!("../../config/samples/github/push.json") },
    Sample {
        provider: "stripe",
        event: "payment_intent.succeeded",
        body: include_str!("../../config/samples/stripe/payment_intent.succeeded.json"),
    },
];

/// Ids in the samples that must be new in every event, for an event is known by them.
const IDS: [&str; 4] = ["tsk_1234567890abcdef", "video_123abc", "render_789xyz", "evt_1Qh3xYLkdIwHu7ixabcdefgh"];

/// The samples of a provider.
pub(super) fn of(provider: &str) -> impl Iterator<Item = &'static Sample> {
    SAMPLES.iter().filter(move |sample| sample.provider == provider)
}

impl Sample {
    /// The header in which the provider names the event, where it stands in a header.
    pub(super) fn header(&self) -> Option<(&'static str, &'static str)> {
        (self.provider == "github").then_some(("x-github-event", self.event))
    }

    /// The body as if the event had happened at `now`: its times are moved, its ids are new. `chance` feeds them.
    pub(super) fn fresh(&self, now: Timestamp, chance: u128) -> String {
        let mut text = moved(self.body, now);
        for (id, turn) in IDS.iter().zip(0_u32..) {
            if let Some((kind, rest)) = id.split_once('_') {
                let digits = format!("{:032x}", chance.rotate_left(turn * 29));
                let end = digits.len().saturating_sub(rest.len());
                text = text.replace(id, &format!("{kind}_{}", digits.get(end..).unwrap_or(&digits)));
            }
        }
        text
    }
}

/// The text with its RFC 3339 times moved together so that the event's own time, or else the latest, is `now`.
fn moved(text: &str, now: Timestamp) -> String {
    let times = || text.split('"').filter_map(time);
    let body: serde_json::Value = serde_json::from_str(text).unwrap_or_default();
    let own = body.get("timestamp").and_then(serde_json::Value::as_str).and_then(time);
    let Some(anchor) = own.or_else(|| times().max()) else { return text.to_owned() };
    let shift = now.millis().saturating_sub(anchor.millis());
    let part = |part: &str| match time(part) {
        None => part.to_owned(),
        Some(moment) => {
            let moment = Timestamp::from_millis(moment.millis().saturating_add(shift)).to_string();
            let seconds = moment.split_once('.').map(|(seconds, _)| format!("{seconds}Z"));
            if part.contains('.') { moment } else { seconds.unwrap_or(moment) }
        }
    };
    text.split('"').map(part).collect::<Vec<_>>().join("\"")
}

fn time(text: &str) -> Option<Timestamp> {
    let moment: jiff::Timestamp = text.parse().ok()?;
    Some(Timestamp::from_millis(moment.as_millisecond()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_seconds(1_760_000_000);
    const CHANCE: u128 = 0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c834;

    #[test]
    fn the_twelve_documented_events_are_there_under_their_own_names() {
        let own =
            |provider| of(provider).filter(|sample| sample.body.contains(&format!("\"{}\"", sample.event))).count();
        assert_eq!((own("veedeo"), own("videopilot")), (6, 6));
        for sample in SAMPLES {
            assert!(serde_json::from_str::<serde_json::Value>(sample.body).is_ok(), "{}", sample.event);
        }
    }

    #[test]
    fn a_fresh_sample_happened_now_and_keeps_its_distances() {
        let sample = of("veedeo").find(|sample| sample.event == "task.queued").unwrap();
        let body: serde_json::Value = serde_json::from_str(&sample.fresh(NOW, 7)).unwrap();
        assert_eq!(body["timestamp"], "2025-10-09T08:53:20Z");
        assert_eq!(body["data"]["estimated_start_time"], "2025-10-09T08:55:20Z");
        let sample = of("videopilot").next().unwrap();
        let body: serde_json::Value = serde_json::from_str(&sample.fresh(NOW, 7)).unwrap();
        assert_eq!(body["timestamp"], "2025-10-09T08:53:20.000Z");
    }

    #[test]
    fn two_fresh_samples_are_two_events() {
        for sample in SAMPLES.iter().filter(|sample| sample.provider != "github") {
            let (one, two) = (sample.fresh(NOW, CHANCE), sample.fresh(NOW, !CHANCE));
            assert_ne!(one, two, "{}", sample.event);
            assert!(IDS.iter().all(|id| !one.contains(id)), "{}", sample.event);
            assert_eq!(one.len(), sample.fresh(NOW, 9).len());
        }
    }
}
