"""A centred average over common tasks for base models, after the CORE of DataComp-LM."""
