//! What becomes of requests that are open, and of those that come, while the gateway stops.

use super::*;

#[tokio::test(start_paused = true)]
async fn at_the_shutdown_open_requests_are_answered_by_the_moment_given_and_no_later_for_a_disk_that_stalls() {
    for (commit, word, took) in [(0, "spooled", 3000), (60, "unavailable spool_failed", 3700)] {
        let world = world(|_| {});
        world.does([(seconds(20), answered(200))]);
        *world.slowness.commit.lock().unwrap() = seconds(commit);
        let begins = async {
            world.at(seconds(1)).await;
            world.deliverer.drain(Instant::now() + seconds(2));
        };
        let (told, ()) = tokio::join!(world.send(1), begins);
        assert_eq!(told, (word.to_owned(), Duration::from_millis(took)));
        assert_eq!(world.ends(seconds(5)).await, Settlement::CutOff, "the attempt goes on");
        let from = Instant::now();
        assert_eq!(world.ends(LONG).await, Settlement::Complete);
        let left = seconds(20).saturating_sub(from - world.began);
        let took = from.elapsed();
        assert!(took >= left && (commit > 0 || took < left + SHARED), "it ends with the last of them: {took:?}");
        assert_eq!(world.ends(Duration::ZERO).await, Settlement::Complete, "nothing runs");
    }
}

#[tokio::test(start_paused = true)]
async fn past_the_moment_by_which_a_shutdown_wants_answers_nothing_is_sent_any_more() {
    for (mode, word) in [(AckMode::Relay, "spooled"), (AckMode::Sync, "unavailable draining")] {
        let world = world(|route| route.ack.mode = mode);
        world.deliverer.drain(Instant::now() + seconds(2));
        world.at(seconds(1)).await;
        assert_eq!(world.send(1).await, ("delivered 200".to_owned(), Duration::ZERO));
        world.at(seconds(2)).await;
        assert_eq!(world.send(2).await, (word.to_owned(), Duration::ZERO));
        assert_eq!(world.sendings(), [(1, 1, false)], "{word}");
    }
}
