//! Render manifests to desired state; diff it with what lives.
