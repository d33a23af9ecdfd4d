"""INT8: named schemes, the kernels that carry them, their choice by measurement, and the gate that guards quality."""
