//! A PTX parser and interpreter for the software GPU
