//! A place in memory is held until the outcome is on disk: what a crash has sent again is at most what has a place. The store
//! takes its time first, so that an outcome is known and not even asked to be written; then the disk does.

use super::*;

/// Longer than the disk waits for others to share a sync with.
const MOMENT: Duration = Duration::from_millis(100);

/// One slot, and so two places.
fn narrow(mode: AckMode) -> World {
    world(|route| {
        route.app.max_in_flight = 1;
        route.ack.mode = mode;
    })
}

/// Events on disk, places that are free, sendings so far.
fn stands(world: &World) -> (u64, usize, usize) {
    let lane = world.deliverer.lane("r").unwrap();
    let free: Vec<_> = (9000..9009).map_while(|number| lane.place(EventId::new(START, number << 64))).collect();
    (world.spool.totals().pending(), free.len(), world.seen().len())
}

/// The application accepts the only event, in its sending of this number, at this second: the store takes three seconds for
/// the mark and the disk five for the outcome.
async fn is_held_until_the_outcome_is_on_disk(world: &World, accepted: u64, sendings: usize) {
    world.at(seconds(1)).await;
    *world.store.marking.lock().unwrap() = seconds(3);
    world.at(seconds(accepted) + MOMENT).await;
    assert_eq!(stands(world), (1, 1, sendings), "accepted, and not marked");
    *world.slowness.commit.lock().unwrap() = seconds(5);
    for second in 1..8 {
        world.at(seconds(accepted + second) + MOMENT).await;
        assert_eq!(stands(world), (1, 1, sendings), "{second} s later");
    }
    world.at(seconds(accepted + 8) + MOMENT).await;
    assert_eq!(stands(world), (0, 2, sendings), "on disk");
}

#[tokio::test(start_paused = true)]
async fn the_place_of_what_is_sent_from_memory_is_held_until_its_outcome_is_on_disk() {
    let world = narrow(AckMode::Queue);
    world.does([(seconds(2), answered(200))]);
    assert_eq!(world.send(1).await.0, "spooled");
    is_held_until_the_outcome_is_on_disk(&world, 2, 1).await;
}

#[tokio::test(start_paused = true)]
async fn the_place_of_what_is_read_ahead_is_held_until_its_outcome_is_on_disk() {
    let world = narrow(AckMode::Relay);
    world.does([(Duration::ZERO, asks_for_rest(503, "10"))]);
    assert_eq!(world.send(1).await.0, "spooled");
    is_held_until_the_outcome_is_on_disk(&world, 10, 2).await;
}

/// Ten events are on disk, and the store takes no mark of what is accepted: as many are sent as have places. Then all, once.
async fn no_more_are_sent_than_have_places(world: &World, before: usize) {
    world.at(seconds(1)).await;
    *world.store.marking.lock().unwrap() = seconds(100);
    world.at(seconds(50)).await;
    assert_eq!(stands(world), (10, 0, before + 2));
    assert_eq!(world.count(State::InFlight).await, 2, "what a crash would have sent again");
    *world.store.marking.lock().unwrap() = Duration::ZERO;
    world.at(LONG).await;
    assert_eq!(stands(world), (0, 2, before + 10));
}

#[tokio::test(start_paused = true)]
async fn no_more_are_sent_from_memory_than_have_places_while_outcomes_do_not_reach_the_disk() {
    let world = narrow(AckMode::Queue);
    world.does([(seconds(2), answered(200))]);
    for number in 0..10 {
        assert_eq!(world.send(number).await.0, "spooled");
    }
    no_more_are_sent_than_have_places(&world, 0).await;
}

#[tokio::test(start_paused = true)]
async fn no_more_are_sent_from_the_backlog_than_have_places_while_outcomes_do_not_reach_the_disk() {
    let world = narrow(AckMode::Relay);
    world.does([(Duration::ZERO, asks_for_rest(503, "10"))]);
    for number in 0..10 {
        assert_eq!(world.send(number).await.0, "spooled");
    }
    no_more_are_sent_than_have_places(&world, 1).await;
}
