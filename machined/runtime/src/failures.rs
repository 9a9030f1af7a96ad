//! Which controllers fail, and why: what people must see when a machine does not come up.
//!
//! The loop around each controller writes its own entry; the daemon reads all of them for status and console.

use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::sync::watch;

/// The last error of each controller that fails now. Clones are the same.
#[derive(Clone, Default)]
pub struct Failures(Arc<watch::Sender<BTreeMap<&'static str, String>>>);

impl Failures {
    pub(crate) fn set(&self, controller: &'static str, story: String) {
        self.0.send_if_modified(|all| all.insert(controller, story.clone()) != Some(story));
    }

    pub(crate) fn clear(&self, controller: &'static str) {
        self.0.send_if_modified(|all| all.remove(controller).is_some());
    }

    /// Errors by controller, with a way to wait for the next change.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<BTreeMap<&'static str, String>> {
        self.0.subscribe()
    }
}
