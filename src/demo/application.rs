//! The demonstration's application: a receiver as teams have them, that can be down and can be slow.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::extract::{Request, State};
use axum::response::IntoResponse;
use axum::{Json, Router};
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// Longest wait for its connections to close.
const FAREWELL: Duration = Duration::from_secs(5);

/// A receiver that remembers which events it has seen, and how often.
pub(super) struct Application {
    address: SocketAddr,
    seen: Arc<Seen>,
    server: Mutex<Option<(oneshot::Sender<()>, JoinHandle<()>)>>,
}

#[derive(Default)]
struct Seen {
    calls: Mutex<HashMap<String, usize>>,
    delay: Mutex<Duration>,
}

impl Application {
    /// An application that is up.
    pub(super) async fn start() -> std::io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let application = Self { address, seen: Arc::default(), server: Mutex::new(None) };
        application.serve(listener);
        Ok(application)
    }

    /// Where it listens, up or not.
    pub(super) const fn address(&self) -> SocketAddr {
        self.address
    }

    /// From now on it takes `delay` to answer.
    pub(super) fn take(&self, delay: Duration) {
        *self.seen.delay.lock().unwrap_or_else(PoisonError::into_inner) = delay;
    }

    /// Takes it down: connections are refused, and those that were open are closed.
    pub(super) async fn go_down(&self) {
        let server = self.server.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some((stop, mut task)) = server {
            drop(stop);
            // Its connections have tasks of their own: it ends when they have.
            if tokio::time::timeout(FAREWELL, &mut task).await.is_err() {
                task.abort();
            }
        }
    }

    /// Brings it back on the same address.
    pub(super) async fn come_back(&self) -> std::io::Result<()> {
        let listener = TcpListener::bind(self.address).await?;
        self.serve(listener);
        Ok(())
    }

    /// How many different events it has seen, and how many calls those were.
    pub(super) fn seen(&self) -> (usize, usize) {
        let calls = self.seen.calls.lock().unwrap_or_else(PoisonError::into_inner);
        (calls.len(), calls.values().sum())
    }

    fn serve(&self, listener: TcpListener) {
        let router = Router::new().fallback(receive).with_state(self.seen.clone());
        let (stop, stopped) = oneshot::channel::<()>();
        let serving = axum::serve(listener, router).with_graceful_shutdown(async move {
            // Sent or dropped, both mean down.
            let _down = stopped.await;
        });
        let task = tokio::spawn(async move {
            // A listener that fails looks to the gateway like an application that is down.
            let _ended = serving.await;
        });
        *self.server.lock().unwrap_or_else(PoisonError::into_inner) = Some((stop, task));
    }
}

async fn receive(State(seen): State<Arc<Seen>>, request: Request) -> impl IntoResponse {
    let key = request.headers().get("hookgate-key").and_then(|key| key.to_str().ok()).unwrap_or_default().to_owned();
    *seen.calls.lock().unwrap_or_else(PoisonError::into_inner).entry(key).or_default() += 1;
    let delay = *seen.delay.lock().unwrap_or_else(PoisonError::into_inner);
    tokio::time::sleep(delay).await;
    Json(serde_json::json!({ "received": true }))
}
