//! Places in memory, rests, probes, and what a lane takes over from the one before it.

use super::*;

#[tokio::test(start_paused = true)]
async fn a_place_in_memory_is_for_what_can_go_at_once() {
    let free = lane(2, None);
    let places: Vec<Place> = (0..4).map_while(|number| free.place(event(number))).collect();
    assert_eq!(places.len(), 4, "as many again as there are slots");
    assert!(free.place(event(9)).is_none());
    drop(places);
    assert!(free.place(event(9)).is_some());
    assert!(lane(2, Some(1000)).place(event(9)).is_none(), "a rate decides when it is sent");
    let down = lane(2, None);
    for number in 0..5 {
        down.learn(NOW, event(number), &Outcome::Unreachable(String::new()));
    }
    assert!(down.place(event(9)).is_none());
    tokio::time::advance(Duration::from_secs(6)).await;
    assert!(down.place(event(9)).is_none(), "a probe is no place");
    let resting = lane(2, None);
    resting.learn(NOW, event(9), &failed(StatusCode::TOO_MANY_REQUESTS, Some("7")));
    assert!(resting.place(event(8)).is_none());
    tokio::time::advance(Duration::from_secs(7)).await;
    assert!(resting.place(event(8)).is_some());
}

#[tokio::test(start_paused = true)]
async fn the_longest_rest_that_was_asked_for_counts() {
    let lane = lane(2, None);
    let until = Instant::now() + Duration::from_secs(60);
    for seconds in ["60", "5"] {
        lane.learn(NOW, event(9), &failed(StatusCode::TOO_MANY_REQUESTS, Some(seconds)));
    }
    assert_eq!(lane.slot(event(8), soon()).await.err(), Some(Held::Until(until)));
    assert_eq!(lane.slot_from_disk(event(8)).await.err(), Some(Held::Until(until)));
}

#[tokio::test(start_paused = true)]
async fn the_moment_of_the_next_probe_is_told_by_whoever_is_asked() {
    let breaker = lane(2, None).breaker;
    tokio::time::advance(Duration::from_secs(100)).await;
    for number in 0..5 {
        breaker.lock().failed(event(number), Blame::Application, breaker.started.elapsed());
    }
    let next = Instant::now() + Duration::from_secs(5);
    assert_eq!(breaker.wait(event(9)), Err(next));
    assert_eq!(breaker.ask(event(9)).err(), Some(next));
    tokio::time::advance(Duration::from_secs(5)).await;
    let probe = breaker.ask(event(9)).expect("a probe");
    assert!(probe.is_some() && breaker.ask(event(8)).is_err(), "one at a time");
}

#[tokio::test(start_paused = true)]
async fn another_configuration_has_slots_and_a_rate_of_its_own() {
    let before = lane(1, Some(7));
    let _taken = before.slots.clone().try_acquire_owned().expect("a free slot");
    let with = |max_in_flight: usize, rate: Option<u32>| {
        let mut route = fixture("r");
        route.app.max_in_flight = max_in_flight;
        route.delivery.rate_per_second = rate;
        Lane::new(Arc::new(route), before.client.clone(), before.breaker.clone(), before.series.clone(), Some(&before))
    };
    assert_eq!(with(1, None).slot(event(9), soon()).await.err(), Some(Held::Busy), "the same slots");
    assert!(with(2, None).slot(event(9), soon()).await.is_ok(), "others");
    let shares = |lane: &Lane| lane.rate.as_ref().zip(before.rate.as_ref()).is_some_and(|(a, b)| Arc::ptr_eq(a, b));
    assert!(shares(&with(2, Some(7))) && !shares(&with(2, Some(8))) && with(2, None).rate.is_none());
}

#[tokio::test(start_paused = true)]
async fn nobody_waits_in_line_for_a_slot_only_to_hear_that_there_is_none_for_him() {
    let lane = lane(1, None);
    let _taken = lane.slot(event(0), soon()).await.expect("a free slot");
    for number in 0..5 {
        lane.learn(NOW, event(number), &Outcome::Unreachable(String::new()));
    }
    let (from, by) = (Instant::now(), Instant::now() + Duration::from_secs(2));
    assert!(matches!(lane.slot(event(9), by).await.err(), Some(Held::Until(_))));
    assert!(matches!(lane.slot_from_disk(event(9)).await.err(), Some(Held::Until(_))));
    assert_eq!(from.elapsed(), Duration::ZERO);
}
