//! From hall to viewer.
