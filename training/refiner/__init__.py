"""The training of the refiner: windows of procedural photographs, coarse masks made of their mattes, CRM's losses."""
