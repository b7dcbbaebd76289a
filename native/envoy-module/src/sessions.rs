//! Sessions that stay with their endpoint. For [`crate::pools`].

use std::collections::HashMap;

/// Which endpoint a session was on; bounded by forgetting the older half.
#[derive(Debug, Default)]
pub struct Sessions {
    new: HashMap<u64, u64>,
    old: HashMap<u64, u64>,
}

const MOST_SESSIONS: usize = 32_768;

impl Sessions {
    /// The endpoint where a session was last.
    pub fn get(&self, session: u64) -> Option<u64> {
        self.new.get(&session).or_else(|| self.old.get(&session)).copied()
    }

    /// A session is at an endpoint.
    pub fn set(&mut self, session: u64, endpoint: u64) {
        if self.new.len() >= MOST_SESSIONS {
            self.old = std::mem::take(&mut self.new);
        }
        let _ = self.new.insert(session, endpoint);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_older_half_is_forgotten() {
        let mut sessions = Sessions::default();
        for session in 0..200_000 {
            sessions.set(session, 1);
            assert!(sessions.new.len() + sessions.old.len() <= 2 * MOST_SESSIONS);
        }
        assert_eq!(sessions.get(199_999), Some(1));
        assert_eq!(sessions.get(0), None);
    }
}
