"""The shipped experiments rehearsed at their true size."""
