//! The built-in providers.

/// Their names.
pub fn names() -> impl Iterator<Item = &'static str> {
    ["github", "veedeo", "videopilot"].into_iter()
}

/// The text of one.
#[must_use]
pub fn text(name: &str) -> Option<&'static str> {
    match name {
        "github" => Some(
            "signature = { header = \"X-Hub-Signature-256\", prefix = \"sha256=\", encoding = \"hex\" }\nevent_id = [\"header:X-GitHub-Delivery\"]\n",
        ),
        "veedeo" => Some(
            "signature = { header = \"X-Veedeo-Signature\", prefix = \"sha256=\", encoding = \"hex\" }\ntimestamp = { from = \"header:X-Veedeo-Timestamp\", unit = \"s\", tolerance = 300, covered = false }\nsigned_at = { from = \"json:/timestamp\", unit = \"rfc3339\", max_age = \"23h\" }\nevent_id = [\"json:/event\", \"json:/task_id\", \"json:/timestamp\"]\nabout = { budget = \"30s\", retry_horizon = \"45m\" }\n",
        ),
        "videopilot" => Some(
            "signature = { header = \"X-VideoPilot-Signature\", prefix = \"sha256=\", encoding = \"hex\" }\nsigned_at = { from = \"json:/timestamp\", unit = \"rfc3339\", max_age = \"23h\", future = \"5m\" }\nevent_id = [\"json:/event\", \"json:/data/render_job_id|json:/data/video_id\", \"json:/timestamp\"]\nabout = { budget = \"30s\" }\n",
        ),
        _ => None,
    }
}
