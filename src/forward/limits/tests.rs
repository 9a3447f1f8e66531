//! What holds attempts back, with and without a reason to.

mod places;

use super::*;
use crate::domain::headers::Headers;
use crate::domain::outcome::{AppAnswer, Timeout};
use crate::domain::route::fixture;
use crate::telemetry::Metrics;
use bytes::Bytes;
use http::{HeaderValue, StatusCode};

const NOW: Timestamp = Timestamp::from_seconds(1_760_000_000);

fn lane(max_in_flight: usize, rate: Option<u32>) -> Lane {
    let mut route = fixture("r");
    route.app.max_in_flight = max_in_flight;
    route.delivery.rate_per_second = rate;
    let breaker = Arc::new(SharedBreaker::new(&route));
    let series = Metrics::new(&[]).expect("metrics").series("r");
    Lane::new(Arc::new(route), Client::None("nobody".into()), breaker, series, None)
}

fn again(lane: &Lane) -> Lane {
    let (client, breaker, series) = (lane.client.clone(), lane.breaker.clone(), lane.series.clone());
    Lane::new(lane.route.clone(), client, breaker, series, Some(lane))
}

fn event(number: u32) -> EventId {
    EventId::new(Timestamp::from_seconds(1), u128::from(number) << 64)
}

fn soon() -> Instant {
    Instant::now() + Duration::from_millis(10)
}

fn failed(status: StatusCode, retry_after: Option<&'static str>) -> Outcome {
    let mut headers = Headers::new();
    if let Some(rest) = retry_after {
        headers.insert(http::header::RETRY_AFTER, HeaderValue::from_static(rest));
    }
    Outcome::of_answer(AppAnswer { status, headers, body: Bytes::new() })
}

#[tokio::test(start_paused = true)]
async fn no_more_attempts_run_at_once_than_the_route_allows() {
    let lane = lane(1, None);
    let first = lane.slot(event(9), soon()).await.expect("a free slot");
    assert_eq!(lane.slot(event(9), soon()).await.err(), Some(Held::Busy));
    drop(first);
    assert!(lane.slot(event(9), soon()).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_slot_is_had_at_once_only_where_nothing_is_to_be_waited_for() {
    let (free, paced) = (lane(1, None), lane(1, Some(1000)));
    let taken = free.slot_at_once(event(9)).expect("a free slot");
    assert_eq!(taken.breaker(), BreakerState::Closed);
    assert!(free.slot_at_once(event(9)).is_none() && free.slot_at_once_regardless().is_none(), "it is taken");
    drop(taken);
    assert!(free.slot_at_once_regardless().is_some(), "it came back");
    assert!(paced.slot_at_once(event(9)).is_none() && paced.slot_at_once_regardless().is_none(), "the rate decides");
    free.learn(NOW, event(9), &failed(StatusCode::TOO_MANY_REQUESTS, Some("7")));
    assert!(free.slot_at_once(event(9)).is_none(), "the application rests");
    assert!(free.slot_at_once_regardless().is_some(), "and what nobody keeps is tried all the same");
    tokio::time::advance(Duration::from_secs(7)).await;
    assert!(free.slot_at_once(event(9)).is_some());
    for number in 0..5 {
        free.learn(NOW, event(number), &Outcome::Unreachable(String::new()));
    }
    assert!(free.slot_at_once(event(9)).is_none() && free.slot_at_once_regardless().is_some(), "it is down");
}

#[tokio::test(start_paused = true)]
async fn a_request_for_rest_holds_the_whole_route_until_it_is_over() {
    let lane = lane(4, None);
    let until = Instant::now() + Duration::from_secs(7);
    lane.learn(NOW, event(9), &failed(StatusCode::TOO_MANY_REQUESTS, Some("7")));
    assert_eq!(lane.slot(event(9), soon()).await.err(), Some(Held::Until(until)));
    tokio::time::advance(Duration::from_secs(7)).await;
    assert!(lane.slot(event(9), soon()).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn an_application_that_fails_again_and_again_is_probed_and_not_flooded() {
    let lane = lane(4, None);
    for number in 0..5 {
        lane.learn(NOW, event(number), &Outcome::Unknown { error: String::new(), timed_out: Timeout::Elapsed });
    }
    assert!(!lane.is_up());
    assert!(matches!(lane.slot(event(9), soon()).await.err(), Some(Held::Until(_))));
    assert!(lane.slot_regardless(soon()).await.is_ok(), "an event that nobody keeps is tried all the same");
    tokio::time::advance(Duration::from_secs(5)).await;
    let probe = lane.slot(event(9), soon()).await.expect("one probe");
    assert_eq!(probe.breaker(), BreakerState::Probing);
    assert!(matches!(lane.slot(event(9), soon()).await.err(), Some(Held::Until(_))), "one at a time");
    lane.learn(NOW, event(9), &failed(StatusCode::NOT_FOUND, None));
    assert!(lane.is_up(), "an application that rejects one event is up");
}

#[tokio::test(start_paused = true)]
async fn an_application_is_back_with_the_answer_that_ends_its_absence_and_with_no_other() {
    let lane = lane(4, None);
    let hears = |outcome: Outcome| lane.learn(NOW, event(9), &outcome);
    let taken = || failed(StatusCode::NOT_FOUND, None);
    assert_eq!(hears(taken()), Learnt::Nothing, "it was not away");
    for _ in 0..7 {
        assert_eq!(hears(Outcome::Unreachable(String::new())), Learnt::Nothing);
    }
    assert_eq!([hears(taken()), hears(taken())], [Learnt::IsBack, Learnt::Nothing]);
}

#[tokio::test(start_paused = true)]
async fn a_probe_that_was_not_sent_goes_back() {
    let lane = lane(4, None);
    for _ in 0..5 {
        lane.learn(NOW, event(9), &Outcome::Unreachable(String::new()));
    }
    tokio::time::advance(Duration::from_secs(5)).await;
    drop(lane.slot(event(9), soon()).await.expect("the probe"));
    let mut probe = lane.slot(event(9), soon()).await.expect("the same probe again");
    probe.used();
    drop(probe);
    assert!(matches!(lane.slot(event(9), soon()).await.err(), Some(Held::Until(_))));
}

#[tokio::test(start_paused = true)]
async fn a_reload_forgets_neither_the_rest_nor_the_slots_in_use() {
    let before = lane(1, None);
    let _taken = before.slot(event(9), soon()).await.expect("a free slot");
    let after = again(&before);
    assert_eq!(after.slot(event(9), soon()).await.err(), Some(Held::Busy));
    before.learn(NOW, event(9), &failed(StatusCode::SERVICE_UNAVAILABLE, Some("60")));
    let after = again(&before);
    assert!(matches!(after.slot(event(9), soon()).await.err(), Some(Held::Until(_))));
}

#[tokio::test(start_paused = true)]
async fn what_waits_on_disk_and_newcomers_get_slots_in_turn() {
    let lane = Arc::new(lane(1, None));
    let taken = lane.slot(event(0), soon()).await.expect("a free slot");
    let order = Arc::new(Mutex::new(Vec::new()));
    let wait = |number: u32, from_disk: bool| {
        let (lane, order) = (lane.clone(), order.clone());
        tokio::spawn(async move {
            let by = Instant::now() + Duration::from_secs(60);
            let slot =
                if from_disk { lane.slot_from_disk(event(number)).await } else { lane.slot(event(number), by).await };
            order.lock().expect("unpoisoned").push(number);
            tokio::time::sleep(Duration::from_millis(10)).await;
            drop(slot);
        })
    };
    let mut waiting: Vec<_> = (1..=20).map(|number| wait(number, false)).collect();
    tokio::time::sleep(Duration::from_secs(5)).await;
    waiting.push(wait(100, true));
    tokio::time::sleep(Duration::from_secs(5)).await;
    drop(taken);
    for one in waiting {
        one.await.expect("it ends in peace");
    }
    let order = order.lock().expect("unpoisoned").clone();
    assert_eq!(order[..3], [1, 100, 2], "the disk does not wait for twenty newcomers: {order:?}");
}

#[tokio::test(start_paused = true)]
async fn no_second_sees_more_attempts_than_the_rate_allows() {
    let pace = Pace::new(NonZeroU32::new(10).expect("ten"));
    // The limiter looks at the real clock: only that it does not let all through at once is seen here.
    let at_once = std::iter::repeat_with(|| pace.limiter.check().is_ok()).take(10).filter(|went| *went).count();
    assert_eq!(at_once, 1);
}

#[tokio::test(start_paused = true)]
async fn one_that_always_fails_is_asked_behind_those_that_did_not() {
    let lane = lane(4, None);
    let mut events: Vec<EventId> = (0..4).map(event).collect();
    for number in [0, 1, 0, 1, 0, 2] {
        lane.learn(NOW, event(number), &failed(StatusCode::INTERNAL_SERVER_ERROR, None));
    }
    lane.failed_last(&mut events);
    assert_eq!(events.first(), Some(&event(3)));
    assert!(lane.slot(event(3), soon()).await.is_ok(), "three that fail are no proof that the application is down");
    assert!(matches!(lane.slot(event(0), soon()).await.err(), Some(Held::Until(_))));
    assert_eq!(lane.learn(NOW, event(3), &failed(StatusCode::NOT_FOUND, None)), Learnt::IsBack);
    assert!(lane.slot(event(0), soon()).await.is_ok());
}
