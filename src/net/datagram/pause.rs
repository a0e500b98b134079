//! A pause of microseconds, which a thread's usual timer slack (50 us) would make several times as long.

use std::time::Duration;

use libc::c_ulong;

/// Sleep for about so long, to a few microseconds.
pub fn pause(duration: Duration) {
    set_timer_slack_ns(1);
    std::thread::sleep(duration);
    // Zero is the thread's own default: what else sleeps in it, and what it forks, is as before.
    set_timer_slack_ns(0);
}

fn set_timer_slack_ns(slack: c_ulong) {
    // SAFETY: no pointers are passed, and the setting is this thread's. Where it is refused the pause is longer.
    unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, slack, 0, 0, 0) };
}
