//! A file system that nothing can be written to but the spool, as the container image has it. P1.

use std::time::Duration;

use crate::world::act::{Gate, accept};
use crate::world::app::App;
use crate::world::clock::eventually;
use crate::world::events::task;
use crate::world::gateway::Gateway;
use crate::world::mounts::Mounts;
use crate::world::needs::given;
use crate::world::setup::Setup;
use crate::world::sign::Provider;

/// As many attempts as change more pages at once than `SQLite` keeps in memory by itself.
const ATTEMPTS: u64 = 400;

#[test]
fn after_a_kill_with_hundreds_of_attempts_under_way_a_start_needs_no_place_for_temporary_files() {
    let Some(mounts) = given(Mounts::with_tmpfs("64m")) else { return };
    mounts.sh("mount -o remount,bind,ro /");
    assert!(mounts.try_sh("touch /tmp/hookgate || touch /var/tmp/hookgate").is_err(), "the rest can be written to");
    let app = App::start();
    let gate = Gate::closed();
    app.decide({
        let gate = gate.clone();
        move |_| accept().behind(&gate)
    });
    let path = format!("spool.path = '{}'", mounts.folder().join("spool").display());
    let mut setup = Setup::new(&app.url()).with(&[&path, "ack.mode = 'queue'", "app.max_in_flight = 512"]);
    setup.shell = Some(mounts.entrance());
    let mut gateway = Gateway::start(setup);
    for number in 0..ATTEMPTS {
        assert!(gateway.send(&Provider::Veedeo.sign(task(number.to_string()))).acked());
    }
    eventually("all of them are being sent", Duration::from_secs(20), || {
        (app.seen().len() as u64 >= ATTEMPTS).then_some(())
    });
    gateway.kill9();
    gate.open();
    gateway.restart();
    gateway.wait_for_empty_spool(Duration::from_secs(30));
}
