//! A thread of the background: it has what processor time the others leave, and gives way to them at once.

/// Make the calling thread one, for good. Where the system cannot, it stays as it is.
pub fn give_way() {
    #[cfg(target_os = "linux")]
    {
        let parameters = libc::sched_param { sched_priority: 0 };
        // SAFETY: 0 is the calling thread; the parameters live across the call. Nobody needs a right to want less.
        unsafe { libc::sched_setscheduler(0, libc::SCHED_IDLE, &raw const parameters) };
    }
}
