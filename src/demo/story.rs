//! The story itself, act by act: each sends real requests, says in a line what came of them, and knows what should have.

use std::io::Write;
use std::time::Duration;

use http::HeaderValue;
use tokio::time::Instant;

use super::application::Application;
use super::sender::{Answer, Sender};
use crate::app::Running;
use crate::domain::headers::Headers;
use crate::domain::time::Timestamp;

/// How an act ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Act {
    /// What was sent was answered as it should be.
    Held,
    /// It was not.
    Failed,
}

/// The longest wait for what should come by itself.
const PATIENCE: Duration = Duration::from_secs(15);

/// How long the slow application takes: longer than the demonstration's budget of 6 s less its reserve of 1 s.
const SLOW: Duration = Duration::from_secs(7);

/// Plays all acts in order.
pub(super) async fn play(
    sender: &Sender,
    quick: &Application,
    slow: &Application,
    running: &Running,
    out: &mut (impl Write + Send),
) -> Vec<Act> {
    let mut stage = Stage { sender, quick, slow, running, out, acts: Vec::new() };
    let (headers, body) = stage.accepted().await;
    stage.bad_signature(&headers, &body).await;
    stage.stale().await;
    stage.duplicate(headers, &body).await;
    stage.app_down().await;
    stage.app_slow().await;
    stage.app_back().await;
    stage.acts
}

struct Stage<'a, W> {
    sender: &'a Sender,
    quick: &'a Application,
    slow: &'a Application,
    running: &'a Running,
    out: &'a mut W,
    acts: Vec<Act>,
}

impl<W: Write> Stage<'_, W> {
    async fn accepted(&mut self) -> (Headers, String) {
        let body = self.task_completed("tsk_1");
        let headers = self.sender.sign("veedeo", body.as_bytes(), self.now());
        let answer = self.sender.post("veedeo", headers.clone(), body.as_bytes()).await;
        let held = answer.status == 200 && self.quick.seen() == (1, 1);
        self.tell(held, "✔ accepted  ", "veedeo      task.completed  ", &answer, "→ app answered 200");
        (headers, body)
    }

    async fn bad_signature(&mut self, headers: &Headers, body: &str) {
        let spaced = body.replace("\":", "\": ");
        let answer = self.sender.post("veedeo", headers.clone(), spaced.as_bytes()).await;
        let held = answer.status == 401 && text(&answer).contains("Invalid signature") && self.quick.seen().1 == 1;
        self.tell(
            held,
            "✘ refused   ",
            "veedeo      bad signature   ",
            &answer,
            "the body was re-serialised: its spaces differ",
        );
    }

    async fn stale(&mut self) {
        let body = self.task_completed("tsk_2");
        let then = self.now().minus(Duration::from_secs(360));
        let headers = self.sender.sign("veedeo", body.as_bytes(), then);
        let answer = self.sender.post("veedeo", headers, body.as_bytes()).await;
        let held = answer.status == 401 && text(&answer).contains("Request too old") && self.quick.seen().1 == 1;
        self.tell(held, "✘ refused   ", "veedeo      6 min old       ", &answer, "older than the 5 min tolerance");
    }

    async fn duplicate(&mut self, headers: Headers, body: &str) {
        let answer = self.sender.post("veedeo", headers, body.as_bytes()).await;
        let held = answer.status == 200
            && text(&answer) == r#"{"received":true,"duplicate":true}"#
            && self.quick.seen().1 == 1;
        self.tell(held, "= duplicate ", "veedeo      same event again", &answer, "app not called");
    }

    async fn app_down(&mut self) {
        self.quick.go_down().await;
        let body = r#"{"ref":"refs/heads/main","after":"0f3c2a9"}"#;
        let mut headers = self.sender.sign("github", body.as_bytes(), self.now());
        headers.insert("x-github-event", HeaderValue::from_static("push"));
        headers.insert("x-github-delivery", HeaderValue::from_static("72d3162e-cc78-11e3-81ab-4c9367dc0958"));
        let answer = self.sender.post("github", headers, body.as_bytes()).await;
        let waiting = self.running.waiting();
        let held = answer.status == 200 && text(&answer) == r#"{"received":true}"# && waiting == 1;
        self.tell(
            held,
            "⚠ app down  ",
            "github      push            ",
            &answer,
            &format!("→ kept on disk ({waiting} waiting)"),
        );
    }

    async fn app_slow(&mut self) {
        self.slow.take(SLOW);
        let now = self.now();
        let body = format!(
            r#"{{"event":"render.completed","data":{{"render_job_id":"render_789xyz","video_id":"video_123abc","status":"completed"}},"timestamp":"{now}"}}"#
        );
        let headers = self.sender.sign("videopilot", body.as_bytes(), now);
        let answer = self.sender.post("videopilot", headers, body.as_bytes()).await;
        let waiting = self.running.waiting();
        let held = answer.status == 200 && answer.took < Duration::from_millis(5500) && waiting == 2;
        let note = format!("→ kept on disk ({waiting} waiting), the sender's limit here is 6 s");
        self.tell(held, "⏳ app slow ", "videopilot  render.completed", &answer, &note);
    }

    async fn app_back(&mut self) {
        let began = Instant::now();
        let back = self.quick.come_back().await.is_ok();
        while self.running.waiting() > 0 && began.elapsed() < PATIENCE {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let (events, calls) = (self.quick.seen().0 + self.slow.seen().0, self.quick.seen().1 + self.slow.seen().1);
        let lost = 3_usize.saturating_sub(events);
        let twice = calls.saturating_sub(events);
        let held = back && self.running.waiting() == 0 && lost == 0 && twice == 0;
        let delivered = 2_usize.saturating_sub(lost);
        self.record(held);
        let mark = if held { ' ' } else { '!' };
        let line = format!(
            "{mark}✔ app back    github + videopilot           delivered {delivered} of 2, {lost} lost, {twice} twice"
        );
        self.write(&line);
    }

    fn tell(&mut self, held: bool, what: &str, who: &str, answer: &Answer, note: &str) {
        self.record(held);
        let mark = if held { ' ' } else { '!' };
        let line = format!("{mark}{what}  {who}  {} in {:>5} ms  {note}", answer.status, answer.took.as_millis());
        self.write(&line);
    }

    fn record(&mut self, held: bool) {
        self.acts.push(if held { Act::Held } else { Act::Failed });
    }

    fn write(&mut self, line: &str) {
        // A reader who closed the pipe has seen enough; the acts are checked all the same.
        let _read = writeln!(self.out, "{line}").and_then(|()| self.out.flush());
    }

    fn now(&self) -> Timestamp {
        self.running.now()
    }

    fn task_completed(&self, task: &str) -> String {
        let now = self.now();
        format!(
            r#"{{"event":"task.completed","timestamp":"{now}","task_id":"{task}","data":{{"processing_time_seconds":135}}}}"#
        )
    }
}

fn text(answer: &Answer) -> String {
    String::from_utf8_lossy(&answer.body).into_owned()
}
