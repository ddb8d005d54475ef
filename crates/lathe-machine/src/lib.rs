//! The description of machines: devices, rates, memories and links, as values and TOML.
