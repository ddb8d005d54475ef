//! Ctrl-C: at first a request to stop, which a verb that generates looks at; a second one, or one where nobody looks,
//! ends the process.

use std::sync::Once;
use std::sync::atomic::{AtomicU8, Ordering::SeqCst};

/// Nobody looks: Ctrl-C ends the process.
const OFF: u8 = 0;
/// Somebody looks, and nothing was pressed.
const LISTENING: u8 = 1;
/// Somebody looks, and Ctrl-C was pressed.
const PRESSED: u8 = 2;

static STATE: AtomicU8 = AtomicU8::new(OFF);
static HANDLER: Once = Once::new();

/// Takes Ctrl-C over: without anybody listening it ends the process with code 130.
pub fn install() {
    HANDLER.call_once(|| {
        let handler = || {
            if STATE.compare_exchange(LISTENING, PRESSED, SeqCst, SeqCst).is_err() {
                std::process::exit(130);
            }
        };
        // Where the system refuses a handler, Ctrl-C ends the process as it always does.
        let _ = ctrlc::set_handler(handler);
    });
}

/// While it lives, the first Ctrl-C does not end the process.
pub struct Listening(());

impl Listening {
    /// Begins to listen.
    pub fn begin() -> Listening {
        install();
        STATE.store(LISTENING, SeqCst);
        Listening(())
    }

    /// Whether Ctrl-C was pressed.
    pub fn pressed(&self) -> bool {
        STATE.load(SeqCst) == PRESSED
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        STATE.store(OFF, SeqCst);
    }
}
