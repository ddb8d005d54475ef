//! The graph, tensor and step IRs: text form, checker, interpreter, and the shape of an operator's row.
