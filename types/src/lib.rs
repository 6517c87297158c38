//! Published shapes of the Widget API, for any kube-rs user.
